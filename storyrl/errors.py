"""The one exception that stands for bad input, and helpers that word it.

The command line turns an `InputError` into one line on standard error and exit code 2; every other exception is a
fault of ours (exit code 1).
"""

import difflib
from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError


class InputError(Exception):
    """Bad input from a user. The message is one line: where, what was found, what was expected, what to do."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.split()))


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint such as `; did you mean 'steps'?`, or the list of known words when nothing is near."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1)
    return f"; did you mean '{close[0]}'?" if close else f"; known: {', '.join(names)}"


def first_problem(error: ValidationError, known_fields: Iterable[str] = ()) -> str:
    """The first problem of a pydantic error as `field 'goal': what was expected (got ...)`."""
    problem = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in problem["loc"]) or "record"
    if problem["type"] == "extra_forbidden":
        return f"field '{field}': unknown field{nearest(str(problem['loc'][-1]), known_fields)}"
    if problem["type"] == "missing":
        return f"field '{field}': required, but missing"
    got = repr(problem["input"])
    return f"field '{field}': {problem['msg']} (got {got if len(got) <= 60 else got[:57] + '...'})"


def readable_file(path: Path) -> Path:
    """`path` if it is a file that exists; raises InputError otherwise."""
    if path.is_dir():
        raise InputError(f"{path}: is a folder, expected a file")
    if not path.exists():
        raise InputError(f"{path}: no such file; check the path")
    return path
