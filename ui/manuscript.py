"""The story as one manuscript of blocks, each with its form to change it, as HTML."""

from html import escape

from storyrl.store import Fork, Node, Tree
from storyrl.story import Prompt, Turn
from ui.html import AUTHORS, attributes, button, turn_fields, who_does
from ui.session import beats

_HINT = '<p class="hint">Ask for suggestions, or write the first turn yourself.</p>'


def manuscript(tree: Tree, chosen: int | None = None, unsaved: Turn | None = None, versions: int = 0) -> str:
    """The current path as prose, each block marked by who wrote it.

    The chosen one is open for changes, with what is `unsaved` in its form; it has so many other `versions`.
    """
    blocks = "".join(
        _block(node, number, tree.prompt, (unsaved or node.turn) if node.id == chosen else None, versions)
        for number, node in enumerate(tree.path, start=1)
    )
    steps = " · ".join(beats(tree.prompt.goal))
    goal = f'<p class="goal">Goal: {escape(steps)}</p>' if steps else ""
    return (
        f'<article class="manuscript" aria-label="Your story"><header><p class="premise">{escape(tree.prompt.premise)}'
        f"</p>{goal}</header>{blocks or _HINT}</article>"
    )


def _block(node: Node, number: int, prompt: Prompt, form: Turn | None, versions: int) -> str:
    by = AUTHORS[node.turn.author]
    name = f"Block {number}, {who_does(node.turn)}, by {by}"
    head = (
        f'<section class="turn {node.turn.author}{" open" if form else ""}" data-block="{node.id}" '
        f'aria-label="{escape(name)}">'
        f'<p data-do="choose" data-block="{node.id}"><span class="block-text">{escape(node.turn.prose())}</span> '
        f'<span class="by">{by}</span></p>'
    )
    if form is None:
        change = button("✎", "choose", "mark", data_block=node.id, aria_label=f"Change block {number}", title="Change")
        anew = _rewrite_button("↻", "mark anew", node.id, aria_label=f"Rewrite block {number}", title="Rewrite (R)")
        return f"{head}{anew}{change}</section>"
    return f"{head}{_forms(node, number, prompt, form, versions)}</section>"


def _forms(node: Node, number: int, prompt: Prompt, form: Turn, versions: int) -> str:
    """Change the block, rewrite it, write another before or after it, delete it, or branch from it."""
    here = node.id
    change = (
        f'<form class="desk-form" aria-label="Change block {number}">'
        + turn_fields("Text (Ctrl+Enter saves it)", form, prompt.characters, f"change-{here}")
        + '<div class="row buttons">'
        + button("Save", "save", "first primary", data_block=here)
        + _rewrite_button("Rewrite", "", here, title="The words that you select in the text, or all of it")
        + (button(f"Versions ({versions})", "versions", data_block=here) if versions else "")
        + button("Branch from here", "branch", data_block=here, title="Go on from this block; what follows is kept")
        + button("Delete", "delete", data_block=here)
        + button("Delete with all that follows", "delete", data_block=here, data_following="yes")
        + button("Close", "close")
        + "</div></form>"
    )
    places = [("Write a turn after this one", here)]
    places += [("Write a turn before this one", 0)] if node.parent is None else []
    return change + "".join(_insertion(label, after, prompt, here) for label, after in places)


def _rewrite_button(label: str, css: str, block: int, **values: object) -> str:
    """Opens the bar (ui/rewriting.py) for a passage of the block, or for all of it; see ui/studio.js."""
    given = attributes({"class": f"act {css}".strip(), "data-passage": block, **values})
    return f'<button type="button"{given}>{escape(label)}</button>'


def _insertion(label: str, after: int, prompt: Prompt, here: int) -> str:
    key = f"insert-{here}-{'after' if after else 'before'}"
    return (
        f'<details><summary>{label}</summary><form class="desk-form" aria-label="{label}">'
        + turn_fields("Text (Ctrl+Enter puts it there)", None, prompt.characters, key)
        + f'<div class="row buttons">{button("Put it there", "insert", "first primary", data_after=after or "")}</div>'
        + "</form></details>"
    )


def side_by_side(fork: Fork) -> str:
    """Two branches from where they part."""
    if not fork.first and not fork.second:
        return '<p class="hint">That is the branch you are on.</p>'
    last = fork.common[-1].turn.prose() if fork.common else "the beginning"
    sides = "".join(
        f'<article aria-label="{label}"><h4>{label}</h4>{_plain(nodes)}</article>'
        for label, nodes in (("This branch", fork.first), ("The other one", fork.second))
    )
    after = f"After {len(fork.common)} shared {'turn' if len(fork.common) == 1 else 'turns'}: {last}"
    return f'<p class="hint">{escape(after)}</p><div class="sides">{sides}</div>'


def _plain(nodes: tuple[Node, ...]) -> str:
    paragraphs = (f'<p class="turn {node.turn.author}">{escape(node.turn.prose())}</p>' for node in nodes)
    return "".join(paragraphs) or '<p class="hint">ends here</p>'
