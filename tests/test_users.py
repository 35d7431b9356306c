"""Who may sign in, that each has a library, and that whatever a page does is done in the name of who is signed in."""

import asyncio
import contextvars
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import gradio as gr
import pytest
from gradio.context import LocalContext
from typer.testing import CliRunner

from storyrl.cli import app
from storyrl.errors import InputError
from storyrl.store import OWNER, Store
from ui.app import build
from ui.session import Place
from ui.users import Door, PasswordHash, is_loopback, read_users, set_password, waiting, writer
from ui.wiring import as_writer, wire

from .conftest import word_tokenizer
from .studio_page import FakeAgent

PASSWORD = "correct horse"


@pytest.fixture(autouse=True)
def cheap_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hash takes a millisecond instead of half a second."""
    monkeypatch.setattr("ui.users._COST", (10, 8, 1))


@pytest.fixture
def users(tmp_path: Path) -> Path:
    path = tmp_path / "users.txt"
    for name in ("Ann", "Bob"):
        set_password(path, name, f"{PASSWORD} {name}")
    return path


# --- passwords and their file -----------------------------------------------------------------------------------------


def test_a_hash_fits_its_password_only_and_has_its_own_salt() -> None:
    one, other = PasswordHash.of(PASSWORD), PasswordHash.of(PASSWORD)
    assert one.fits(PASSWORD)
    assert not one.fits("Correct horse")
    assert not one.fits("")
    assert one.hash != other.hash
    assert PasswordHash.parse(str(one)) == one
    assert PASSWORD not in str(one)


def test_a_known_hash() -> None:
    # RFC 7914, section 12: scrypt("pleaseletmein", "SodiumChloride", N = 16384, r = 8, p = 1), the first 32 bytes
    known = "scrypt$14$8$1$U29kaXVtQ2hsb3JpZGU=$cCO9yzr9c0hGHAbNgf046/2o+7qQT44+qbVD9lRdofI="
    assert PasswordHash.parse(known).fits("pleaseletmein")


@pytest.mark.parametrize(
    "given",
    [
        "",
        "secret",
        "md5$14$8$1$U29kaXVtQ2hsb3JpZGU=$cCO9yzr9c0hGHAbNgf046/2o+7qQT44+qbVD9lRdofI=",
        "scrypt$30$8$1$U29kaXVtQ2hsb3JpZGU=$cCO9yzr9c0hGHAbNgf046/2o+7qQT44+qbVD9lRdofI=",  # a terabyte
        "scrypt$14$8$99999$U29kaXVtQ2hsb3JpZGU=$cCO9yzr9c0hGHAbNgf046/2o+7qQT44+qbVD9lRdofI=",
        "scrypt$14$8$1$$cCO9yzr9c0hGHAbNgf046/2o+7qQT44+qbVD9lRdofI=",
        "scrypt$14$8$1$U29kaXVtQ2hsb3JpZGU=$cCO9",
        "scrypt$14$8$1$U29k*XVt$cCO9yzr9c0hGHAbNgf046/2o+7qQT44+qbVD9lRdofI=",
    ],
)
def test_broken_hashes_are_refused_with_file_and_line(given: str, users: Path) -> None:
    users.write_text(f"{users.read_text()}\nCarl:{given}\n")
    with pytest.raises(InputError, match=r"users\.txt:4: user 'Carl': no password hash.*studio-password"):
        read_users(users)


@pytest.mark.parametrize("line", ["no colon", ":x", "a/../b:x", " Ann:x", "x" * 61 + ":x", "<b>:x"])
def test_broken_names_are_refused_with_file_and_line(line: str, users: Path) -> None:
    users.write_text(f"# who writes\n\n{line}\n{users.read_text()}")
    with pytest.raises(InputError, match=r"users\.txt:3: .*1 to 60 letters"):
        read_users(users)


def test_a_name_twice_an_empty_file_and_none(users: Path, tmp_path: Path) -> None:
    users.write_text(f"{users.read_text()}{users.read_text().splitlines()[0]}\n")
    with pytest.raises(InputError, match=r"users\.txt:3: user 'Ann' is there already"):
        read_users(users)
    (tmp_path / "empty.txt").write_text("# nobody\n\n")
    with pytest.raises(InputError, match=r"empty\.txt: names nobody"):
        read_users(tmp_path / "empty.txt")
    with pytest.raises(InputError, match="no such file"):
        read_users(tmp_path / "none.txt")


def test_passwords_are_set_and_changed_and_other_lines_stay(users: Path) -> None:
    users.write_text(f"# who writes\n{users.read_text()}".replace("\n", "\r\n"))
    os.chmod(users, 0o644)
    before = users.read_text().splitlines()
    assert set_password(users, "Ann", "another horse") is False
    assert set_password(users, "Zoë B.", PASSWORD) is True
    after = users.read_text().splitlines()
    assert [after[0], after[2]] == [before[0], before[2]]
    known = read_users(users)
    assert list(known) == ["Ann", "Bob", "Zoë B."]
    assert known["Ann"].fits("another horse")
    assert known["Bob"].fits(f"{PASSWORD} Bob")
    assert stat.S_IMODE(users.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("name", "password"), [("Ann", "short"), ("Ann", "x" * 201), ("a:b", PASSWORD), ("a\nb", PASSWORD)]
)
def test_what_cannot_be_a_user_changes_nothing(name: str, password: str, users: Path) -> None:
    before = users.read_text()
    with pytest.raises(InputError, match="expected"):
        set_password(users, name, password)
    assert users.read_text() == before
    users.write_text("broken\n")
    with pytest.raises(InputError, match=":1:"):
        set_password(users, "Ann", PASSWORD)
    assert users.read_text() == "broken\n"


def test_the_command_asks_twice(tmp_path: Path) -> None:
    path, run = tmp_path / "new.txt", CliRunner().invoke
    call = ["studio-password", "Ann", "--auth-file", str(path)]
    assert run(app, call, input=f"{PASSWORD}\ncorrect house\n").exit_code != 0  # and asks again: the input ends
    assert not path.exists()
    result = run(app, call, input=f"{PASSWORD}\n{PASSWORD}\n")
    assert result.stdout.strip() == f"{path}: Ann may sign in"
    assert PASSWORD not in result.output
    assert read_users(path)["Ann"].fits(PASSWORD)
    assert "has another password" in run(app, call, input=f"{PASSWORD}!\n{PASSWORD}!\n").stdout


def test_the_studio_refuses_a_broken_file_before_it_loads_a_model(users: Path, tmp_path: Path) -> None:
    users.write_text("broken\n")
    call = ["studio", "--auth-file", str(users), "--db", str(tmp_path / "s.db"), "--policy", "no-such-policy"]
    result = CliRunner().invoke(app, call)
    assert isinstance(result.exception, InputError)
    assert "users.txt:1:" in str(result.exception)


# --- the door ---------------------------------------------------------------------------------------------------------


def test_the_door_admits_the_right_ones(users: Path) -> None:
    door = Door(users)

    async def tries() -> list[bool]:
        right = [await door.admits(name, f"{PASSWORD} {name}") for name in ("Ann", "Bob")]
        wrong = [
            ("Ann", f"{PASSWORD} Bob"),
            ("ann", f"{PASSWORD} Ann"),
            ("Eve", PASSWORD),
            ("", ""),
            ("Ann", "x" * 10**6),
        ]
        return right + [await door.admits(*each) for each in wrong]

    assert asyncio.run(tries()) == [True, True, False, False, False, False, False]


def test_guessing_is_slowed_down_for_that_name_also_side_by_side(users: Path) -> None:
    door = Door(users)

    async def tries() -> tuple[list[bool], bool, bool, bool, bool]:
        guesses = await asyncio.gather(*(door.admits("Ann", f"guess {n}") for n in range(5)))
        refused = await door.admits("Ann", f"{PASSWORD} Ann")
        other = await door.admits("Bob", f"{PASSWORD} Bob")
        await asyncio.sleep(1.05)
        after = await door.admits("Ann", f"{PASSWORD} Ann")
        await door.admits("Ann", "wrong again")
        return guesses, refused, other, after, await door.admits("Ann", f"{PASSWORD} Ann")

    assert asyncio.run(tries()) == ([False] * 5, False, True, True, True)
    assert [waiting(n) for n in (0, 4, 5, 6, 10, 11, 5000)] == [0, 0, 1, 2, 32, 60, 60]


def test_the_door_follows_the_file_and_outlasts_a_broken_one(users: Path) -> None:
    door = Door(users)
    set_password(users, "Carl", PASSWORD)
    assert asyncio.run(door.admits("Carl", PASSWORD))
    users.write_text("broken\n")
    assert asyncio.run(door.admits("Carl", PASSWORD))
    users.write_text(f"Carl:{PasswordHash.of('something else')}\n")
    assert not asyncio.run(door.admits("Carl", PASSWORD))


def test_who_can_reach_a_host() -> None:
    assert [is_loopback(host) for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost")] == [True] * 4
    assert [is_loopback(host) for host in ("0.0.0.0", "::", "192.168.1.2", "example.org", "")] == [False] * 5


# --- whose step it is -------------------------------------------------------------------------------------------------


def in_the_name_of(name: str | None, call: Any, *args: Any) -> Any:
    """Run a call as gradio does for a signed-in user: in a context of its own, on another thread."""
    request = gr.Request(username=name)
    result: list[Any] = []

    def work() -> None:
        LocalContext.request.set(request)
        result.append(call(*args))

    thread = threading.Thread(target=contextvars.Context().run, args=(work,))
    thread.start()
    thread.join()
    return result[0]


def test_steps_run_in_the_name_of_who_is_signed_in() -> None:
    log: list[str] = []

    def generator(times: int) -> Iterator[str]:
        try:
            for _ in range(times):
                yield writer.get()
        finally:
            log.append(f"closed by {writer.get()}")

    assert in_the_name_of("Ann", as_writer(lambda: writer.get())) == "Ann"
    assert in_the_name_of(None, as_writer(lambda: writer.get())) == OWNER
    ann, bob = as_writer(generator)(3), as_writer(generator)(2)
    seen = [in_the_name_of(name, next, each) for name, each in (("Ann", ann), ("Bob", bob)) * 2]
    assert seen == ["Ann", "Bob", "Ann", "Bob"]
    in_the_name_of(None, ann.close)  # gradio closes it on another thread
    assert log == ["closed by Ann"]
    assert in_the_name_of("Bob", list, bob) == []
    assert log[1:] == ["closed by Bob"]
    assert writer.get() == OWNER


def test_a_view_of_the_store_asks_for_its_owner_each_time(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "s.db"))
    mine = store.for_owner(writer.get)
    in_the_name_of("Ann", as_writer(lambda: mine.set_setting("key", "of Ann")))
    assert in_the_name_of("Bob", as_writer(lambda: mine.get_setting("key"))) is None
    assert in_the_name_of("Ann", as_writer(lambda: mine.get_setting("key"))) == "of Ann"
    assert store.for_owner("Ann").get_setting("key") == "of Ann"
    assert mine.get_setting("key") is None


def test_each_writer_has_a_part_of_the_browser_s_memory() -> None:
    with gr.Blocks() as page:
        memory, button = gr.BrowserState(None), gr.Button()
        wire(
            button.click,
            lambda place, memory: [memory, Place(story=place).model_dump()],
            [button, memory],
            [button, memory],
        )
        wire(button.click, lambda memory: [gr.skip(), memory], [memory], [memory, button])
    write, read = (fn.fn for fn in page.fns.values())
    both: Any = "garbage"
    for name, before in (("Ann", None), ("Bob", None), ("Ann", "Ann 0"), ("Bob", "Bob 0")):
        seen, both = in_the_name_of(name, write, f"{name} {0 if before is None else 1}", both)
        assert Place.of(seen).story == before
    assert in_the_name_of("Ann", read, both)[1]["story"] == "Ann 1"
    assert in_the_name_of("Bob", read, both)[1]["story"] == "Bob 1"
    assert in_the_name_of("Ann", read, both)[0] == gr.skip()
    for number in range(20):
        _, both = in_the_name_of(f"writer {number}", write, "x", both)
    assert len(both["writers"]) == 8


def test_every_step_of_the_page_knows_its_writer(tmp_path: Path) -> None:
    page = build(cast(Any, FakeAgent(word_tokenizer())), Store(str(tmp_path / "s.db")))
    steps = [fn.fn for fn in page.fns.values() if fn.fn is not None]
    assert len(steps) > 40
    assert [step for step in steps if step.__globals__["__name__"] != "ui.wiring"] == []
