"""The Library tab: all stories with search, renaming, copies, deletion that can be taken back, import and export."""

import base64
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from storyrl.errors import InputError
from storyrl.exchange import EXPORTS, export_story, read_story
from storyrl.store import Store, StoryInfo
from ui.html import attributes, button, choice, line, status
from ui.session import Place, changed_prompt
from ui.wiring import fields_of, friendly, panel, wire
from ui.write import WriteTab

_DOWNLOAD = """(file) => { if (!file) return;
  const bytes = Uint8Array.from(atob(file.data), (c) => c.charCodeAt(0));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([bytes], { type: file.type }));
  link.download = file.name; link.click(); setTimeout(() => URL.revokeObjectURL(link.href), 10000); }"""
_SUFFIXES = [".json", ".jsonl", ".md", ".markdown", ".txt", ".text"]


class LibraryTab:
    """Components and handlers of the tab; opening a story shows it in the Write tab (`tabs` switches to it)."""

    def __init__(self, store: Store, write: WriteTab, tabs: gr.Tabs):
        self.store, self.write, self.tabs = store, write, tabs
        with gr.Row(elem_id="library-bar"):
            self.search = gr.Textbox(
                label="Search titles, premises and texts", elem_id="search", scale=4, min_width=200
            )
            self.bring = gr.UploadButton(
                "Import a file", file_types=_SUFFIXES, elem_id="import", scale=1, min_width=130
            )
        self.said = gr.HTML(status(""), elem_id="library-status")
        self.list = panel("library")
        self.file = gr.JSON(visible="hidden")

    def connect(self, tab: gr.Tab, page: gr.Blocks) -> None:
        """Wire the tab; the list is read whenever it comes into view."""
        where = [self.write.place, self.write.memory]
        for event in (tab.select, page.load):
            wire(event, self._list, [self.search], [self.list])
        wire(self.search.change, self._list, [self.search], [self.list], mode="always_last")
        outputs = [self.list, self.said, self.tabs, self.file, *self.write.view_outputs]
        done = wire(self.list.click, self._act, [self.search, *where], outputs)
        done.success(None, [self.file], js=_DOWNLOAD, api_visibility="private")
        brought = wire(self.bring.upload, self._import, [self.bring, self.search, *where], outputs)
        for event in (done, brought):
            self.write.measured(event.success)

    def _list(self, search: str | None) -> str:
        with friendly():
            words = search or ""  # a field that was never in view has no text
            return shelf(self.store.list_stories(words), self.store.list_stories(deleted=True), words)

    def _act(self, search: str | None, place: Place | None, memory: object, event: gr.EventData) -> list[Any]:
        """What a button of the list does."""
        fields, place = fields_of(event), Place.now(place, memory)
        with friendly():
            do, story = str(fields.get("do", "")), str(fields.get("story", ""))
            if do == "open":
                place = self.write.desk.open(story, place)
                return [gr.skip(), status(""), gr.update(selected="write"), None, *self.write.view(place)]
            if do == "export":
                file = download(self.store, story, str(fields.get("kind", "")))
                return [gr.skip(), status(f"{file['name']} is ready."), gr.skip(), file, *self._same()]
            known = changes(self.store)
            if do not in known:
                raise InputError(f"no such step: {do[:40]}")
            return self._changed(search, place, known[do](story, fields))

    def _changed(self, search: str | None, place: Place, said: str) -> list[Any]:
        """The list after a change; the open story may be another than it was."""
        view = self.write.view(self.write.desk.newest(place))
        return [self._list(search), status(said), gr.skip(), None, *view]

    def _same(self) -> list[Any]:
        return [gr.skip()] * len(self.write.view_outputs)

    def _import(self, path: str, search: str | None, place: Place | None, memory: object) -> list[Any]:
        """A story opens at once; a lorebook joins the story that is open."""
        place = Place.now(place, memory)
        with friendly():
            imported = read_story(Path(path))
            notes = " ".join(imported.notes)
            if imported.story is not None:
                self.store.save_story(imported.story, imported.title)
                place = self.write.desk.open(imported.story.id, place)
                said = f"Imported '{imported.title}' ({imported.kind}). {notes}"
                return [self._list(search), status(said), gr.update(selected="write"), None, *self.write.view(place)]
            tree = self.write.desk.look(place).tree
            prompt = changed_prompt(tree.prompt, lore=(*tree.prompt.lore, *imported.lore))
            self.store.set_prompt(tree.story_id, prompt, place.version)
            return self._changed(search, place, f"Added {len(imported.lore)} lore entries to the open story. {notes}")


def changes(store: Store) -> Mapping[str, Callable[[str, Mapping[str, Any]], str]]:
    """What can be done to a story of the list, by the name of the step; each says what it did."""

    def rename(story: str, fields: Mapping[str, Any]) -> str:
        store.rename(story, str(fields.get("title", "")), _version(fields))
        return "Renamed."

    def duplicate(story: str, fields: Mapping[str, Any]) -> str:
        store.duplicate(story)
        return "Copied, with all its branches."

    def remove(story: str, fields: Mapping[str, Any]) -> str:
        store.delete_story(story, _version(fields))
        return "Deleted. For 30 days it can be taken back below."

    def restore(story: str, fields: Mapping[str, Any]) -> str:
        store.undelete_story(story, _version(fields))
        return "Taken back."

    return {"rename": rename, "duplicate": duplicate, "remove": remove, "restore": restore}


def download(store: Store, story_id: str, kind: str) -> dict[str, str]:
    """A story as a file for the browser: name, media type, and the bytes in base64.

    Raises:
        InputError: no such story or kind.
    """
    tree = store.tree(story_id)
    data, suffix, media_type = export_story(tree.story, kind, tree.title)
    name = " ".join(re.sub(r"[^\w' -]", " ", tree.title).split())[:80] or "story"
    return {"name": f"{name}{suffix}", "type": media_type, "data": base64.b64encode(data).decode("ascii")}


def shelf(stories: list[StoryInfo], deleted: list[StoryInfo], search: str = "") -> str:
    """The list, and under it the deleted ones."""
    rows = "".join(map(_row, stories))
    nothing = "No story holds that." if search.strip() else "There is no story yet; the Write tab starts one."
    gone = "".join(
        f"<li><span>{escape(info.title)}</span> "
        f"{button('Take back', 'restore', data_story=info.id, data_version=info.version)}</li>"
        for info in deleted
    )
    there = f'<ul class="stories">{rows}</ul>' if rows else f'<p class="hint">{nothing}</p>'
    if not deleted:
        return there
    return f'{there}<section class="deleted"><h3>Deleted ({len(deleted)})</h3><ul>{gone}</ul></section>'


def _row(info: StoryInfo) -> str:
    same: dict[str, Any] = {"data_story": info.id, "data_version": info.version}
    turns, words = f"{info.turns} {'turn' if info.turns == 1 else 'turns'}", f"{info.words:,} words"
    title = button(info.title, "open", "title", **same)
    kinds = choice("Export as", "kind", [(kind.capitalize(), kind) for kind in EXPORTS], "json")
    given = attributes({"class": "desk-form row", "aria-label": f"Story {info.title}"})
    return (
        f'<li>{title}<span class="by">{turns} · {words} · {_when(info.updated)}</span><form{given}>'
        + line("Title", "title", info.title, maxlength=200)
        + button("Rename", "rename", "first", **same)
        + button("Duplicate", "duplicate", **same)
        + button("Delete", "remove", **same)
        + kinds
        + button("Export", "export", **same)
        + "</form></li>"
    )


def _when(time: datetime) -> str:
    return f"{time:%d %b %Y, %H:%M} UTC"


def _version(fields: Mapping[str, Any]) -> int:
    try:
        return int(str(fields["version"])[:18])
    except (KeyError, ValueError) as error:
        raise InputError("version: expected a number; reload the page") from error
