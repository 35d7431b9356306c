"""Prompt files: JSON Lines, CSV, TOML and plain text (one premise a line), read into validated Prompts.

`starter:train` and `starter:heldout` name the sets that come with the product. Every error names file, line (or
record) and field.
"""

import csv
import io
import tomllib
from collections.abc import Iterable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from storyrl.errors import InputError, first_problem, nearest
from storyrl.files import read_jsonl, read_text
from storyrl.story import LoreEntry, Prompt

STARTER_SETS = {"starter:train": "train.jsonl", "starter:heldout": "heldout.jsonl"}
_FIELDS = Prompt.model_fields | LoreEntry.model_fields


def read_prompts(source: str | Path) -> list[Prompt]:
    """All prompts of a file, or of a starter set by name.

    A record has `premise` and optionally `id`, `goal`, `characters`, `memory`, `style`, `genre`, `note`, `note_depth`
    and `lore`, a list of records with `text` and `keys`, `always`, `enabled` or `name`. In CSV the characters are
    separated by semicolons and there is no lore; a TOML file holds `[[prompt]]` tables. Prompts without an id get
    their line number.

    Raises:
        InputError: no such file, an unknown suffix or field, a bad value, a repeated id, or no prompt at all.
    """
    if str(source).startswith("starter:"):
        if str(source) not in STARTER_SETS:
            raise InputError(f"{source}: no such starter set{nearest(str(source), STARTER_SETS)}")
        path = Path(str(resources.files("prompts").joinpath("sets", STARTER_SETS[str(source)])))
    else:
        path = Path(source)
    readers = {".jsonl": read_jsonl, ".csv": _csv_rows, ".toml": _toml_rows, ".txt": _text_rows}
    if path.suffix.lower() not in readers:
        raise InputError(f"{path}: prompt files end in {', '.join(readers)}; got '{path.suffix}'")
    prompts = list(_validated(path, readers[path.suffix.lower()](path)))
    if not prompts:
        raise InputError(f"{path}: holds no prompts; expected at least one premise")
    return prompts


def _validated(path: Path, rows: Iterable[tuple[int, dict[str, Any]]]) -> Iterator[Prompt]:
    seen: dict[str, int] = {}
    for number, row in rows:
        if isinstance(row.get("id"), int) and not isinstance(row["id"], bool):
            row["id"] = str(row["id"])
        row.setdefault("id", str(number))
        try:
            prompt = Prompt.model_validate(row)
        except ValidationError as error:
            raise InputError(f"{path}:{number}: {first_problem(error, _FIELDS)}") from error
        if prompt.id in seen:
            raise InputError(f"{path}:{number}: field 'id': '{prompt.id}' was used in line {seen[prompt.id]}")
        seen[prompt.id] = number
        yield prompt


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        if reader.fieldnames and "premise" not in reader.fieldnames:
            raise InputError(f"{path}:1: the header has no column 'premise'; got {', '.join(reader.fieldnames)}")
        if "lore" in (reader.fieldnames or ()):
            raise InputError(f"{path}:1: column 'lore': lore does not fit into CSV; write JSON Lines or TOML")
        for row in reader:
            if None in row:
                raise InputError(f"{path}:{reader.line_num}: more fields than the header has columns; quote the commas")
            record: dict[str, Any] = {key: value for key, value in row.items() if value}
            if "characters" in record:
                record["characters"] = [name.strip() for name in record["characters"].split(";") if name.strip()]
            if record:
                yield reader.line_num, record
    except csv.Error as error:
        raise InputError(f"{path}:{reader.line_num}: not valid CSV ({error})") from error


def _toml_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        document = tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: not valid TOML ({error})") from error
    unknown = [key for key in document if key != "prompt"]
    if unknown:
        raise InputError(f"{path}: unknown key '{unknown[0]}'; expected [[prompt]] tables")
    tables = document.get("prompt", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise InputError(f"{path}: 'prompt' must be an array of tables; write [[prompt]] with double brackets")
    yield from enumerate((dict(table) for table in tables), start=1)


def _text_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip() and not line.startswith("#"):
            yield number, {"premise": line.strip()}
