"""A map of a story's branches as an HTML list: one line a block, a branch indented under the block where it forks."""

from collections.abc import Iterator
from html import escape

from storyrl.store import Node, Tree
from ui.html import button, who_does

_DEEPEST = 6  # indentations; beyond that a phone has no room
_WORDS = 60  # characters of a block's text


def tree_map(tree: Tree, compared: int | None = None) -> str:
    """The map; the current path is marked, and each block leads to its branch."""
    if not tree.nodes:
        return '<p class="hint">The map shows every turn and every branch once there are some.</p>'
    rows = "".join(_row(tree, node, level, number, compared) for node, level, number in _lines(tree))
    return f'<ol class="map" aria-label="Map of the story">{rows}</ol>'


def _lines(tree: Tree) -> Iterator[tuple[Node, int, int]]:
    """Blocks with their level (0: the path one is on) and their number in the story; branches come before the path."""
    waiting = [(tree.node(start), level, 1) for start, level in reversed(_levels(tree, None, 0))]
    while waiting:
        node, level, number = waiting.pop()
        yield node, level, number
        following = _levels(tree, node.id, level)
        waiting += [(tree.node(child), deeper, number + 1) for child, deeper in reversed(following)]


def _levels(tree: Tree, node_id: int | None, level: int) -> list[tuple[int, int]]:
    """What follows a block: side branches, one level deeper, and last the one that goes on at this level."""
    children = tree.following(node_id)
    if not children:
        return []
    main = next((child for child in children if tree.node(child).on_path), children[-1])
    return [*((child, level + 1) for child in children if child != main), (main, level)]


def _row(tree: Tree, node: Node, level: int, number: int, compared: int | None) -> str:
    text = node.turn.text if len(node.turn.text) <= _WORDS else node.turn.text[:_WORDS].rstrip() + "…"
    where = "on the current path" if node.on_path else f"on a branch, level {level}"
    go = button(
        f"{number} · {text}",
        "go",
        "place",
        data_block=node.id,
        aria_current="step" if node.id == tree.tip else None,
        aria_label=f"Turn {number}, {who_does(node.turn)}, {where}: {text}",
    )
    beside = "" if node.on_path or node.children else _compare(node.id, number, compared)
    css = f"{node.turn.author}{' here' if node.on_path else ''}"
    return f'<li class="{escape(css)}" style="--level:{min(level, _DEEPEST)}">{go}{beside}</li>'


def _compare(node_id: int, number: int, compared: int | None) -> str:
    if node_id == compared:
        return button("Close", "apart", "beside")
    label = f"Compare the branch that ends with turn {number} with the current one"
    return button("Compare", "compare", "beside", data_block=node_id, aria_label=label)
