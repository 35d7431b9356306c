"""What happens to a story in the studio: pure steps from one session to the next, and their HTML. No gradio, no model.

Every text that a person or the model wrote is escaped here, where it becomes HTML.
"""

import uuid
from dataclasses import dataclass, replace
from html import escape

from pydantic import ValidationError

from storyrl.agent import Suggestion
from storyrl.errors import InputError, first_problem
from storyrl.store import ShownCandidate
from storyrl.story import Kind, Prompt, Story, Turn

_AUTHORS = {"writer": "you", "policy": "model", "edited": "model, edited by you"}


@dataclass(frozen=True)
class Session:
    """A story being written, the suggestions on the table, and the suggestion that is being edited."""

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
    fields = {"premise": premise, "goal": goal, "characters": names, "memory": memory, "style": style}
    try:
        prompt = Prompt.model_validate({"id": story_id, **fields})
    except ValidationError as error:
        if not premise.strip():
            raise InputError("Please say first what the story is about (the premise).") from error
        raise InputError(first_problem(error)) from error
    return Session(Story(id=story_id, prompt=prompt))


def pick(session: Session, number: int) -> Session:
    """Add suggestion `number` to the story."""
    return Session(session.story.with_turns(session.suggestions[number].turn))


def edit(session: Session, number: int) -> Session:
    """Take suggestion `number` as a draft for the writer's own turn."""
    return replace(session, editing=session.suggestions[number].turn)


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
    """Take the last turn off."""
    return Session(session.story.model_copy(update={"turns": session.story.turns[:-1]}))


def shown(session: Session, picked: int | None = None) -> list[ShownCandidate]:
    """The suggestions as the store keeps them."""
    return [
        ShownCandidate(suggestion.turn, suggestion.scores, suggestion.reward, picked=number == picked)
        for number, suggestion in enumerate(session.suggestions)
    ]


# --- HTML -----------------------------------------------------------------------------------------------------------


def manuscript(session: Session | None) -> str:
    """The story as prose, each turn marked by who wrote it."""
    if session is None:
        return '<div class="manuscript empty">Your story will stand here.</div>'
    prompt = session.story.prompt
    goal = f'<p class="goal">Goal: {escape(prompt.goal)}</p>' if prompt.goal else ""
    turns = "".join(
        f'<p class="turn {turn.author}">{escape(turn.prose())}<span class="by">{_AUTHORS[turn.author]}</span></p>'
        for turn in session.story.turns
    )
    return f'<article class="manuscript"><p class="premise">{escape(prompt.premise)}</p>{goal}{turns}</article>'


def card(suggestion: Suggestion) -> str:
    """A suggestion with its score bars."""
    turn = suggestion.turn
    who = f"{turn.actor} {'says' if turn.kind is Kind.SAY else 'acts'}" if turn.actor else "narration"
    bars = "".join(_bar(name, share, suggestion.scores[name]) for name, share in suggestion.bars.items())
    return (
        f'<div class="card"><p class="who">{escape(who)}</p><p class="words">{escape(turn.text)}</p>'
        f'<div class="bars">{bars}<p class="total">total {suggestion.reward:+.2f}</p></div></div>'
    )


def _bar(name: str, share: float, score: float) -> str:
    percent = round(100 * share)
    label = f"{escape(name)}: better than {percent} % of the model's usual stories (score {score:.2f})"
    return (
        f'<div class="bar" role="meter" aria-valuemin="0" aria-valuemax="100" aria-valuenow="{percent}" '
        f'aria-label="{label}" title="{label}"><span>{escape(name)}</span>'
        f'<span class="track"><span class="fill" style="width:{percent}%"></span></span><span>{percent}</span></div>'
    )


def about(prompt: Prompt) -> str:
    """A prompt as a short paragraph."""
    goal = f" <em>Goal: {escape(prompt.goal)}</em>" if prompt.goal else ""
    return f'<p class="about">{escape(prompt.premise)}{goal}</p>'


def story_html(text: str) -> str:
    """A finished story as paragraphs."""
    paragraphs = "".join(f"<p>{escape(paragraph)}</p>" for paragraph in text.split("\n\n"))
    return f'<article class="manuscript">{paragraphs}</article>'
