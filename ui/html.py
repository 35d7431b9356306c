"""Small pieces of HTML that the whole studio is made of. Every text is escaped here, where it becomes HTML.

A button or form with `data-do` tells the page's handlers (ui/actions.js) which step to take; its other data and the
fields of its form go along.
"""

from collections.abc import Iterable, Sequence
from html import escape

from storyrl.story import Kind, Prompt, Turn

AUTHORS = {"writer": "you", "policy": "model", "edited": "model, edited by you"}
KINDS = [("Narrate", Kind.NARRATE.value), ("Say", Kind.SAY.value), ("Do", Kind.DO.value)]


def attributes(values: dict[str, object]) -> str:
    """Attributes of a tag: True stands alone, False and None are left out; `_` in a name is a hyphen."""
    parts = []
    for name, value in values.items():
        name = name.rstrip("_").replace("_", "-")
        if value is True:
            parts.append(f" {name}")
        elif value is not None and value is not False:
            parts.append(f' {name}="{escape(str(value))}"')
    return "".join(parts)


def button(label: str, do: str, css: str = "", **values: object) -> str:
    """A button that takes a step."""
    return (
        f'<button type="button"{attributes({"class": f"act {css}".strip(), "data-do": do, **values})}>'
        f"{escape(label)}</button>"
    )


def line(label: str, name: str, value: str, **values: object) -> str:
    """A labelled field of one line."""
    given = attributes({"name": name, "value": value, **values})
    return f"<label><span>{escape(label)}</span><input{given}></label>"


def area(label: str, name: str, value: str, rows: int = 3, **values: object) -> str:
    """A labelled field of several lines. (The value is an attribute, too: gradio writes that into the live field.)"""
    given = attributes({"name": name, "rows": rows, "value": value, **values})
    return f"<label><span>{escape(label)}</span><textarea{given}>\n{escape(value)}</textarea></label>"


def check(label: str, name: str, value: bool) -> str:
    """A labelled box to tick."""
    given = attributes({"name": name, "checked": value})
    return f'<label class="check"><input type="checkbox"{given}><span>{escape(label)}</span></label>'


def choice(label: str, name: str, options: Iterable[tuple[str, str]], value: str) -> str:
    """A labelled choice of one of several (word, value)."""
    rows = "".join(
        f"<option{attributes({'value': each, 'selected': each == value})}>{escape(word)}</option>"
        for word, each in options
    )
    given = attributes({"name": name, "value": value})
    return f"<label><span>{escape(label)}</span><select{given}>{rows}</select></label>"


def span(label: str, name: str, value: float, low: float, high: float, step: float, shown: str = "") -> str:
    """A labelled slider with its value beside it."""
    given = attributes({"name": name, "value": f"{value:g}", "min": low, "max": high, "step": step})
    return (
        f'<label class="span"><span>{escape(label)}</span><input type="range"{given}>'
        f"<output>{escape(shown or f'{value:g}')}</output></label>"
    )


def meter(word: str, label: str, percent: int, number: str, css: str) -> str:
    """A bar from 0 to 100 with its word and its number."""
    return (
        f'<div class="bar {css}" role="meter" aria-valuemin="0" aria-valuemax="100" aria-valuenow="{percent}" '
        f'aria-valuetext="{escape(number)}" aria-label="{escape(label)}" title="{escape(label)}">'
        f'<span>{escape(word)}</span><span class="track"><span class="fill" style="width:{percent}%"></span></span>'
        f"<span>{escape(number)}</span></div>"
    )


def who_does(turn: Turn) -> str:
    """The kind of a turn in words."""
    return f"{turn.actor} {'says' if turn.kind is Kind.SAY else 'acts'}" if turn.actor else "Narration"


def turn_fields(label: str, turn: Turn | None, cast: Sequence[str], key: str) -> str:
    """Kind, speaker and text of a turn in a form; `key` tells its draft from others."""
    names = "".join(f'<option value="{escape(name)}"></option>' for name in cast)
    kind, actor, text = (turn.kind.value, turn.actor or "", turn.text) if turn else (Kind.NARRATE.value, "", "")
    return (
        '<div class="row">'
        + choice("Kind", "kind", KINDS, kind)
        + line("Who", "actor", actor, maxlength=60, list=f"cast-{key}", autocomplete="off")
        + f'<datalist id="cast-{escape(key)}">{names}</datalist></div>'
        + area(label, "text", text, maxlength=20_000)
    )


def about(prompt: Prompt) -> str:
    """A prompt as a short paragraph."""
    goal = f' <span class="goal">Goal: {escape(prompt.goal)}</span>' if prompt.goal else ""
    return f'<p class="about">{escape(prompt.premise)}{goal}</p>'


def story_html(letter: str, text: str) -> str:
    """A finished story as paragraphs, under its letter."""
    paragraphs = "".join(f"<p>{escape(paragraph)}</p>" for paragraph in text.split("\n\n"))
    return f'<article class="manuscript" aria-label="Story {letter}"><h3>{letter}</h3>{paragraphs}</article>'


def status(text: str, busy: bool = False) -> str:
    """A line that says what is going on; screen readers read it out."""
    return f'<p class="status{" busy" if busy else ""}" role="status">{escape(text)}</p>'
