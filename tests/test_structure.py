"""Imports point one way, and the README covers every metric."""

import ast
import re
from pathlib import Path

_ROOT = Path(__file__).parent.parent
# What each part must never import (a prefix of module names).
_NEVER = {
    "storyrl/story.py": ("storyrl.", "rewards", "prompts", "ui"),
    "storyrl/decoding.py": ("storyrl.policy", "storyrl.tuning", "rewards", "ui"),
    "storyrl/store/": ("storyrl.policy", "storyrl.tuning", "rewards", "ui"),
    "storyrl/": ("ui",),
    "prompts/": ("storyrl.policy", "storyrl.tuning", "storyrl.decoding", "storyrl.store", "rewards", "ui"),
    "rewards/": ("storyrl.tuning", "storyrl.store", "storyrl.agent", "ui"),
    "": ("storyrl.cli",),
    "ui/": ("storyrl.tuning",),
}
_WIRING = ("storyrl/cli/", "storyrl/__main__.py")  # the command line, which puts everything together


def _imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_imports_point_one_way() -> None:
    wrong = []
    for package in ("storyrl", "rewards", "prompts", "ui"):
        for path in (_ROOT / package).rglob("*.py"):
            place = path.relative_to(_ROOT).as_posix()
            banned = {b for start, names in _NEVER.items() if place.startswith(start) for b in names}
            for name in _imports(path) if not place.startswith(_WIRING) else ():
                wrong += [f"{place} imports {name}" for b in banned if f"{name}.".startswith(b.rstrip(".") + ".")]
    assert wrong == []


def test_readme_defines_every_metric() -> None:
    loop = (_ROOT / "storyrl" / "tuning" / "loop.py").read_text("utf-8")
    metrics = re.findall(r'^        "(\w+)":', loop[loop.index("def _metrics") :], re.MULTILINE)
    readme = (_ROOT / "README.md").read_text("utf-8")
    assert len(metrics) >= 12
    assert [name for name in metrics if f"`{name}`" not in readme] == []
