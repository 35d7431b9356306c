"""The library of the studio: rename, duplicate, delete, take back, export; no page."""

import base64
import json
import zipfile
from io import BytesIO

import pytest

from storyrl.errors import InputError
from storyrl.exchange import EXPORTS, import_story
from storyrl.store import Stale
from ui import library
from ui.desk import Desk
from ui.session import Place


def test_library_steps(desk: Desk, place: Place) -> None:
    can, store, story = library.changes(desk.store), desk.store, place.story or ""
    can["rename"](story, {"version": place.version, "title": " The boat "})
    [info] = store.list_stories()
    assert info.title == "The boat"
    can["duplicate"](story, {})
    assert {info.title for info in store.list_stories()} == {"The boat", "The boat (copy)"}
    can["remove"](story, {"version": info.version})
    assert [info.title for info in store.list_stories()] == ["The boat (copy)"]
    [gone] = store.list_stories(deleted=True)
    assert desk.newest(place).story is None
    can["restore"](story, {"version": gone.version})
    assert len(store.list_stories()) == 2
    for step in ("rename", "remove", "restore"):
        with pytest.raises(Stale):
            can[step](story, {"version": 0, "title": "x"})
        with pytest.raises(InputError, match="version"):
            can[step](story, {"version": "x", "title": "x"})


@pytest.mark.parametrize("kind", EXPORTS)
def test_every_export_downloads(desk: Desk, place: Place, kind: str) -> None:
    version = desk.store.rename(place.story or "", "../../Mira's / boat <3", place.version)
    assert version
    file = library.download(desk.store, place.story or "", kind)
    assert file["name"] == f"Mira's boat 3{EXPORTS[kind][1]}"
    data = base64.b64decode(file["data"])
    if kind == "json":
        imported = import_story(data, file["name"]).story
        assert imported and [turn.text for turn in imported.turns] == ["One.", "Two.", "Three."]
    elif kind == "epub":
        assert zipfile.ZipFile(BytesIO(data)).testzip() is None
    elif kind == "lorebook":
        assert isinstance(json.loads(data), dict)
    else:
        assert b"Two." in data


def test_an_unknown_export_is_refused(desk: Desk, place: Place) -> None:
    with pytest.raises(InputError, match="no such format"):
        library.download(desk.store, place.story or "", "../etc")
