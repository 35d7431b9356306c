"""Who writes: the writer of the step that runs, and the file of those who may sign in. No gradio.

A line of the file is `name:scrypt$log2(n)$r$p$salt$hash` (salt and hash in base64); empty lines and lines that begin
with # are skipped. `storyrl studio-password` writes it.
"""

import asyncio
import base64
import binascii
import contextlib
import hashlib
import hmac
import ipaddress
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from storyrl.console import say
from storyrl.errors import InputError
from storyrl.files import atomic_writer, read_text
from storyrl.store import OWNER

writer: ContextVar[str] = ContextVar("writer", default=OWNER)
"""The owner of what the running step reads and writes; `ui.wiring.wire` sets it from who is signed in."""

SHORTEST, LONGEST = 8, 200
"""Length of a password in characters."""

_NAME = re.compile(r"[\w.@-](?:[\w.@ -]{0,58}[\w.@-])?")
_COST = (15, 8, 3)  # log2(n), r, p: 32 MB and about half a second
_MOST_MEMORY = 2**28  # bytes
_FREE = 5  # wrong passwords in a row that cost no waiting
_LONGEST_WAIT = 60.0  # seconds
_NAMES_KEPT = 10_000

SIGN_IN = (
    "<title>storyrl studio: sign in</title>"  # gradio gives that page none
    f"After {_FREE} wrong passwords in a row, wait a minute before you try again."
)
"""What the page to sign in says, as HTML."""


@dataclass(frozen=True)
class PasswordHash:
    """A salted scrypt hash of a password."""

    cost: tuple[int, int, int]
    salt: bytes
    hash: bytes

    @classmethod
    def of(cls, password: str) -> "PasswordHash":
        """The hash of a password with a salt of its own."""
        salt = secrets.token_bytes(16)
        return cls(_COST, salt, _scrypt(password, _COST, salt))

    @classmethod
    def parse(cls, text: str) -> "PasswordHash":
        """What `str` wrote.

        Raises:
            ValueError: it is something else, or would take too much memory or time.
        """
        method, *cost, salt, digest = text.split("$")
        log_n, r, p = (int(number) for number in cost)
        if method != "scrypt" or not (10 <= log_n <= 17 and 1 <= r <= 8 and 1 <= p <= 8):
            raise ValueError(text)
        parsed = cls((log_n, r, p), base64.b64decode(salt, validate=True), base64.b64decode(digest, validate=True))
        if len(parsed.salt) < 8 or len(parsed.hash) != 32:
            raise ValueError(text)
        return parsed

    def __str__(self) -> str:
        parts = ["scrypt", *self.cost, *(base64.b64encode(part).decode() for part in (self.salt, self.hash))]
        return "$".join(map(str, parts))

    def fits(self, password: str) -> bool:
        """Whether the password is the right one; takes as long for a wrong one."""
        return hmac.compare_digest(_scrypt(password, self.cost, self.salt), self.hash)


def _scrypt(password: str, cost: tuple[int, int, int], salt: bytes) -> bytes:
    log_n, r, p = cost
    secret = password.encode("utf-8", "surrogatepass")
    return hashlib.scrypt(secret, salt=salt, n=2**log_n, r=r, p=p, maxmem=_MOST_MEMORY, dklen=32)


def read_users(path: Path) -> dict[str, PasswordHash]:
    """The users of a file by their names.

    Raises:
        InputError: the file cannot be read, names nobody, or a line is broken (the message has its number).
    """
    users: dict[str, PasswordHash] = {}
    for number, line in _lines(path):
        name, colon, given = line.partition(":")
        if not (colon and _NAME.fullmatch(name)):
            raise InputError(f"{path}:{number}: expected NAME:HASH with a name of {_NAME_RULE}; {_HOW}")
        if name in users:
            raise InputError(f"{path}:{number}: user '{name}' is there already; delete one of the two lines")
        try:
            users[name] = PasswordHash.parse(given.strip())
        except (ValueError, binascii.Error) as error:
            raise InputError(f"{path}:{number}: user '{name}': no password hash that storyrl knows; {_HOW}") from error
    if not users:
        raise InputError(f"{path}: names nobody who may sign in; {_HOW}")
    return users


_NAME_RULE = "1 to 60 letters, digits and . @ _ - (spaces only inside)"
_HOW = "`storyrl studio-password NAME --auth-file FILE` writes such lines"


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip() and not line.startswith("#"):
            yield number, line.rstrip("\r")


def set_password(path: Path, name: str, password: str) -> bool:
    """Add a user to a file, or give the user another password; whether the user is new.

    The file is replaced as a whole and can then be read by its owner only. Other lines stay as they are.

    Raises:
        InputError: a bad name, a password that is too short or too long, or a broken file.
    """
    if not _NAME.fullmatch(name):
        raise InputError(f"user name '{name[:60]}': expected {_NAME_RULE}")
    if not SHORTEST <= len(password) <= LONGEST:
        raise InputError(f"password: expected {SHORTEST} to {LONGEST} characters, got {len(password)}")
    there = path.exists()
    lines = read_text(path).splitlines() if there else []
    is_new = name not in (read_users(path) if any(_lines(path)) else {}) if there else True
    line = f"{name}:{PasswordHash.of(password)}"
    lines = [*lines, line] if is_new else [line if old.partition(":")[0] == name else old for old in lines]
    with _private(), atomic_writer(path) as handle:
        handle.write("\n".join(lines) + "\n")
    return is_new


@contextlib.contextmanager
def _private() -> Iterator[None]:
    """Files made meanwhile can be read by their owner only."""
    mask = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(mask)


class Door:
    """Lets in those whom the file names. It is read anew for each attempt, so a change counts at once.

    After some wrong passwords for a name the next attempts are refused unread, twice as long each time; a right one
    begins anew. One password is checked at a time.
    """

    def __init__(self, path: Path):
        self._path = path
        self._wrong: dict[str, tuple[int, float]] = {}  # wrong passwords in a row, and until when the name is refused
        self._checking = asyncio.Lock()
        self._nobody = PasswordHash.of(secrets.token_hex())
        self._known = read_users(path)

    async def admits(self, name: str, password: str) -> bool:
        """Whether name and password are right; what gradio's `auth` asks."""
        async with self._checking:
            count, until = self._wrong.get(name, (0, 0.0))
            if time.monotonic() < until or len(password) > LONGEST:
                return False
            known = self._users().get(name)
            right = await asyncio.to_thread((known or self._nobody).fits, password) and known is not None
            self._wrong.pop(name, None)
            if not right:
                self._wrong[name] = (count + 1, time.monotonic() + waiting(count + 1))
                while len(self._wrong) > _NAMES_KEPT:
                    del self._wrong[next(iter(self._wrong))]
            return right

    def _users(self) -> dict[str, PasswordHash]:
        try:
            self._known = read_users(self._path)
        except InputError as error:
            say(f"{error}. Until then those can sign in who could before.")
        return self._known


def waiting(wrong: int) -> float:
    """How long a name is refused after so many wrong passwords in a row, seconds."""
    return min(2.0 ** min(wrong - _FREE, 10), _LONGEST_WAIT) if wrong >= _FREE else 0.0


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server at `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
