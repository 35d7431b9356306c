"""What happens to a story in the studio: pure steps from one session to the next, and their HTML. No gradio, no model.

Every text that a person or the model wrote is escaped here, where it becomes HTML.
"""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from html import escape

from pydantic import ValidationError

from rewards.guards import GUARDS
from storyrl.agent import Suggestion
from storyrl.errors import InputError, first_problem
from storyrl.store import ShownCandidate
from storyrl.story import Kind, Prompt, Story, Turn

_AUTHORS = {"writer": "you", "policy": "model", "edited": "model, edited by you"}
_TERMS = {"preference": "taste"}  # the scorers' names in the reader's words
_SPAN = 3.0  # the bar of the total reaches from -3 to +3 standard deviations


@dataclass(frozen=True)
class Session:
    """A story being written, the suggestions for its next turn, and the one the writer took to edit, if any."""

    story: Story
    suggestions: tuple[Suggestion, ...] = ()
    editing: Turn | None = None


def start(premise: str, goal: str, characters: str, memory: str = "", style: str = "") -> Session:
    """A new story; characters are separated by commas.

    Raises:
        InputError: no premise, or a field that is too long.
    """
    names = [name.strip() for name in characters.split(",") if name.strip()]
    story_id = uuid.uuid4().hex
    fields = {"premise": premise, "goal": goal, "characters": names, "memory": memory or "", "style": style or ""}
    try:
        prompt = Prompt.model_validate({"id": story_id, **fields})
    except ValidationError as error:
        if not premise.strip():
            raise InputError("Please say first what the story is about (the premise).") from error
        raise InputError(first_problem(error)) from error
    return Session(Story(id=story_id, prompt=prompt))


def pick(session: Session, number: int) -> Session:
    """Add suggestion `number` to the story.

    Raises:
        InputError: there is no such suggestion (any more).
    """
    return Session(session.story.with_turns(_suggestion(session, number).turn), editing=session.editing)


def edit(session: Session, number: int) -> Session:
    """Take suggestion `number` as a draft for the writer's own turn.

    Raises:
        InputError: there is no such suggestion (any more).
    """
    return replace(session, editing=_suggestion(session, number).turn)


def _suggestion(session: Session, number: int) -> Suggestion:
    if number >= len(session.suggestions):
        raise InputError("These suggestions are no longer here; press Suggest for new ones.")
    return session.suggestions[number]


def discard(session: Session) -> Session:
    """Forget the draft."""
    return replace(session, editing=None)


def add_turn(session: Session, kind: str, actor: str, text: str) -> Session:
    """Add the writer's own turn; marked as edited when it started from a suggestion.

    Raises:
        InputError: no text, or speech and action without a name.
    """
    if not text.strip():
        raise InputError("Please write the turn's text first.")
    if kind != Kind.NARRATE and not actor.strip():
        raise InputError("Please say who speaks or acts.")
    author = "edited" if session.editing else "writer"
    fields = {"kind": kind, "actor": actor.strip() if kind != Kind.NARRATE else None, "text": text, "author": author}
    try:
        turn = Turn.model_validate(fields)
    except ValidationError as error:
        raise InputError(first_problem(error)) from error
    return Session(session.story.with_turns(turn))


def undo(session: Session) -> Session:
    """Take the last turn off.

    Raises:
        InputError: there is no turn.
    """
    if not session.story.turns:
        raise InputError("There is no turn to undo.")
    return Session(session.story.model_copy(update={"turns": session.story.turns[:-1]}), editing=session.editing)


def shown(session: Session, picked: int | None = None) -> list[ShownCandidate]:
    """The suggestions as the store keeps them."""
    return [
        ShownCandidate(suggestion.turn, suggestion.scores, suggestion.reward, picked=number == picked)
        for number, suggestion in enumerate(session.suggestions)
    ]


# --- HTML -----------------------------------------------------------------------------------------------------------


def manuscript(session: Session) -> str:
    """The story as prose, each turn marked by who wrote it."""
    prompt = session.story.prompt
    goal = f'<p class="goal">Goal: {escape(prompt.goal)}</p>' if prompt.goal else ""
    turns = "".join(
        f'<p class="turn {turn.author}">{escape(turn.prose())} <span class="by">{_AUTHORS[turn.author]}</span></p>'
        for turn in session.story.turns
    )
    hint = '<p class="hint">Ask for suggestions, or write the first turn yourself.</p>'
    return (
        f'<article class="manuscript" aria-label="Your story"><header><p class="premise">{escape(prompt.premise)}</p>'
        f"{goal}</header>{turns or hint}</article>"
    )


def card(suggestion: Suggestion, has_goal: bool) -> str:
    """A suggestion with its score bars; without a goal there is none for the goal."""
    turn = suggestion.turn
    who = f"{turn.actor} {'says' if turn.kind is Kind.SAY else 'acts'}" if turn.actor else "Narration"
    names = [name for name in suggestion.bars if has_goal or name != "goal"]
    bars = "".join(_bar(name, suggestion.bars[name], suggestion.scores) for name in names)
    return (
        f'<div class="card"><p class="who">{escape(who)}</p><p class="words">{escape(turn.text)}</p>'
        f'<div class="bars">{bars}{_total(suggestion.reward)}</div></div>'
    )


def _bar(name: str, share: float, scores: Mapping[str, float]) -> str:
    percent = round(100 * share)
    word = _TERMS.get(name, name)
    if name == "clean":
        faults = ", ".join(f"{guard} {scores[guard]:.0%}" for guard in GUARDS if scores.get(guard))
        label = f"clean: {faults or 'no fault found'}"
    elif name == "goal":
        label = f"goal: has happened by now with a probability of {percent} %"
    else:
        label = f"{word}: better than {percent} % of the model's usual stories (score {scores[name]:.2f})"
    return _meter(word, label, percent, f"{percent} %", "term")


def _total(reward: float) -> str:
    percent = round(100 * (min(max(reward, -_SPAN), _SPAN) + _SPAN) / (2 * _SPAN))
    label = f"total: {reward:+.2f} standard deviations from the model's usual stories; the suggestions are sorted by it"
    return _meter("total", label, percent, f"{reward:+.2f}", "total")


def _meter(word: str, label: str, percent: int, number: str, css: str) -> str:
    return (
        f'<div class="bar {css}" role="meter" aria-valuemin="0" aria-valuemax="100" aria-valuenow="{percent}" '
        f'aria-valuetext="{number}" aria-label="{escape(label)}" title="{escape(label)}"><span>{escape(word)}</span>'
        f'<span class="track"><span class="fill" style="width:{percent}%"></span></span><span>{number}</span></div>'
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
