"""What the model reads and how it writes, for the writer to control: memory, note, lore, sampling, context; as HTML."""

from collections.abc import Mapping
from dataclasses import replace
from html import escape
from itertools import groupby

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from prompts.context import Context, Part
from storyrl.choosing import Sampling
from storyrl.errors import InputError, first_problem
from storyrl.policy import WRITING
from storyrl.story import LoreEntry, Prompt
from ui.html import area, attributes, button, check, choice, line, span

SETTING = "sampling"
"""Under which setting of the owner the store keeps how the model writes."""
MOST_PHRASES, LONGEST_PHRASE = 50, 60
"""How many phrases can be banned, and how many characters one has at most."""


class Manner(BaseModel):
    """How the model writes; see storyrl/decoding.py."""

    model_config = ConfigDict(frozen=True)

    temperature: float = Field(WRITING.temperature, ge=0, le=2)
    top_p: float = Field(WRITING.top_p, gt=0, le=1)
    top_k: int = Field(WRITING.top_k, ge=0, le=1000)
    min_p: float = Field(WRITING.min_p, ge=0, le=1)
    repetition_penalty: float = Field(WRITING.repetition_penalty, ge=1, le=2)
    max_tokens: int = Field(WRITING.max_tokens, ge=10, le=200)
    banned: tuple[str, ...] = WRITING.banned

    @field_validator("banned", mode="after")
    @classmethod
    def _few_and_short(cls, phrases: tuple[str, ...]) -> tuple[str, ...]:
        found = tuple(dict.fromkeys(" ".join(phrase.split()) for phrase in phrases if phrase.strip()))
        if len(found) > MOST_PHRASES:
            raise ValueError(f"at most {MOST_PHRASES} phrases, one a line; these are {len(found)}")
        if long := next((phrase for phrase in found if len(phrase) > LONGEST_PHRASE), None):
            raise ValueError(f"at most {LONGEST_PHRASE} characters a phrase; '{long[:20]}...' has {len(long)}")
        return found

    @classmethod
    def of(cls, value: object) -> "Manner":
        """A stored manner; whatever is none is the usual one."""
        try:
            return cls.model_validate(value)
        except ValidationError:
            return cls()

    @property
    def sampling(self) -> Sampling:
        """As the decoder takes it."""
        return replace(WRITING, **self.model_dump())


PRESETS: Mapping[str, Manner] = {
    "usual": Manner(),
    "careful": Manner(temperature=0.3, top_p=0.8),
    "lively": Manner(temperature=0.8, top_p=0.95, top_k=100, repetition_penalty=1.05),
    "bold": Manner(temperature=1.1, top_p=1.0, top_k=0, min_p=0.05, repetition_penalty=1.1),
}
_SLIDERS = {
    "temperature": ("Temperature", 0.0, 2.0, 0.05),
    "top_p": ("Top-p", 0.05, 1.0, 0.05),
    "top_k": ("Top-k (0: all)", 0, 200, 10),
    "min_p": ("Min-p (0: off)", 0.0, 0.5, 0.01),
    "repetition_penalty": ("Repetition penalty", 1.0, 2.0, 0.05),
    "max_tokens": ("Longest turn, tokens", 10, 200, 10),
}

_MEANING = {
    "Temperature": "Higher: more surprising words. 0: always the likeliest one.",
    "Top-p": "Only the likeliest words that together have this probability. Lower: safer.",
    "Top-k": "Only so many of the likeliest words.",
    "Min-p": "Only words at least this likely, measured by the likeliest one. At 0.05 to 0.1 a high temperature "
    "stays sensible.",
    "Repetition penalty": "Above 1: words that were used before come less often. Much above 1.2 hurts names.",
    "Longest turn": "In tokens; a word takes one or two. A turn that breaks off is cut after its last sentence.",
    "Never write": f"These words never come from the model, in capitals or not; at most {MOST_PHRASES} phrases of "
    f"{LONGEST_PHRASE} characters.",
}
_HELP = (
    '<details class="keys"><summary>What these do</summary><dl>'
    + "".join(f"<dt>{escape(word)}</dt><dd>{escape(text)}</dd>" for word, text in _MEANING.items())
    + "</dl></details>"
)


def changed_manner(old: Manner, fields: Mapping[str, object]) -> Manner:
    """The manner after a change in its form; another preset sets all the sliders and leaves the banned phrases.

    Raises:
        InputError: a number out of its range, too many banned phrases, or one that is too long.
    """
    values = {name: fields[name] for name in Manner.model_fields if name in fields}
    if isinstance(lines := values.get("banned"), str):
        values["banned"] = lines.splitlines()
    preset = str(fields.get("preset", ""))
    if preset in PRESETS and preset != preset_of(old):
        values = {**PRESETS[preset].model_dump(), "banned": values.get("banned", old.banned)}
    try:
        return Manner.model_validate(values)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        if problem["loc"] == ("banned",) and "error" in problem.get("ctx", {}):
            raise InputError(f"Never write: {problem['ctx']['error']}") from error
        raise InputError(first_problem(error)) from error


def preset_of(manner: Manner) -> str:
    """The name of the preset that a manner is, whatever it bans, or "own"."""
    plain = manner.model_copy(update={"banned": ()})
    return next((name for name, preset in PRESETS.items() if preset == plain), "own")


def manner_form(manner: Manner) -> str:
    """Preset and sliders."""
    given = attributes({"data-autosave": True, "data-do": "manner", "data-on": "input"})
    presets = [(name.capitalize(), name) for name in (*PRESETS, "own")]
    rows = "".join(
        span(label, name, getattr(manner, name), low, high, step) for name, (label, low, high, step) in _SLIDERS.items()
    )
    return (
        f'<form class="desk-form" aria-label="Sampling"{given}>'
        f"{choice('How the model writes', 'preset', presets, preset_of(manner))}{rows}"
        + area("Never write (one phrase a line)", "banned", "\n".join(manner.banned), maxlength=4000)
        + f'<p class="hint">Saved when you leave a field, for all of your stories.</p></form>{_HELP}'
    )


def prompt_form(prompt: Prompt) -> str:
    """Premise, characters, memory, style and the author's note; saved when a field is left."""
    given = attributes({"data-autosave": True, "data-do": "prompt", "data-on": "input"})
    return (
        f'<form class="desk-form" aria-label="What the model always reads"{given}>'
        + area("Premise", "premise", prompt.premise, maxlength=4000)
        + line("Characters", "characters", ", ".join(prompt.characters), maxlength=2000)
        + area("Memory: facts that it always reads", "memory", prompt.memory, maxlength=4000)
        + line("Style", "style", prompt.style, maxlength=4000)
        + area("Author's note: a wish for what comes next", "note", prompt.note, rows=2, maxlength=4000)
        + line(
            "The note stands before the last ... turns",
            "note_depth",
            str(prompt.note_depth),
            type="number",
            min=0,
            max=50,
        )
        + '<p class="hint">Saved when you leave a field.</p></form>'
    )


def lore_table(prompt: Prompt) -> str:
    """The lore, an entry a fold, and one to add another."""
    rows = "".join(_entry(number, entry) for number, entry in enumerate(prompt.lore))
    about = '<p class="hint">Lore. The model reads an entry when one of its keys stands in the latest turns.</p>'
    return f'<div class="lore" role="group" aria-label="Lore">{about}{rows}{_entry(None, None)}</div>'


def _entry(number: int | None, entry: LoreEntry | None) -> str:
    name, keys, text = (entry.name, ", ".join(entry.keys), entry.text) if entry else ("", "", "")
    title = "Add an entry" if entry is None else name or keys or text[:40]
    off = "" if entry is None or entry.enabled else " (off)"
    buttons = button("Save", "lore", "first primary", data_entry=number)
    if entry is not None:
        buttons += button("Delete", "unlore", data_entry=number)
    return (
        f"<details><summary>{escape(title)}{off}</summary>"
        f'<form class="desk-form" aria-label="{escape(title)}">'
        + line("Name", "name", name, maxlength=200)
        + line("Keys, with commas between them", "keys", keys, maxlength=4000)
        + area("What the model is told", "text", text, maxlength=4000)
        + f'<div class="row">{check("Always read", "always", bool(entry and entry.always))}'
        + f"{check('Enabled', 'enabled', entry is None or entry.enabled)}</div>"
        + f'<div class="row buttons">{buttons}</div></form></details>'
    )


def context_view(context: Context) -> str:
    """Exactly what the model reads, part by part, and how the budget is spent."""
    used = len(context.ids)
    rows = "".join(
        _left_out(list(parts)) if not included else "".join(map(_part, parts))
        for included, parts in groupby(context.parts, key=lambda part: part.included)
    )
    percent = round(100 * used / context.budget)
    spent = f"The model reads {used:,} of at most {context.budget:,} tokens ({percent} %)."
    return f'<div class="context"><p class="hint">{spent}</p>{rows}</div>'


def _part(part: Part) -> str:
    why = f" ({part.why})" if part.why else ""
    return (
        f'<section class="part {escape(part.kind)}"><h5>{escape(part.label + why)} <span>{part.tokens}</span></h5>'
        f"<pre>{escape(part.text)}</pre></section>"
    )


def _left_out(parts: list[Part]) -> str:
    tokens = sum(part.tokens for part in parts)
    name = parts[0].label if len(parts) == 1 else f"{parts[0].label} to {parts[-1].label}"
    inside = "".join(map(_part, parts))
    return f'<details class="left-out"><summary>Left out: {escape(name)} ({tokens} tokens)</summary>{inside}</details>'
