"""What happens to a story in the studio, as pure steps: no gradio, no store, no model, no HTML."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from prompts.template import end_at_sentence, format_turn
from rewards.composite import Composite
from rewards.guards import GUARDS
from storyrl.errors import InputError, first_problem
from storyrl.rewrite import FIT, passage
from storyrl.store import Round, ShownCandidate, Tree
from storyrl.story import Kind, Prompt, Story, Turn

REACHED = 0.5
"""From this probability on a goal counts as reached."""
_GROUPS = {"goal": "goal", "shaping": "goal", "verbs": "goal", "preference": "taste", **dict.fromkeys(GUARDS, "guards")}


class Weights(BaseModel):
    """How much the writer wants each part of the reward to count, as a factor of its usual weight."""

    model_config = ConfigDict(frozen=True)

    goal: float = Field(1.0, ge=0, le=3)
    taste: float = Field(1.0, ge=0, le=3)
    guards: float = Field(1.0, ge=0, le=3)


class Rewriting(BaseModel):
    """The passage that is being written anew: characters `start` to `end` of a block's text."""

    model_config = ConfigDict(frozen=True)

    block: int
    start: int
    end: int
    hint: str = Field("", max_length=200)
    round: int | None = Field(None, description="which round of versions is shown; None: the latest")


class Place(BaseModel):
    """Where a writer is: what the page needs to know beside the store. It lives in the browser, too."""

    model_config = ConfigDict(frozen=True)

    story: str | None = None
    version: int = Field(0, description="of the story, as this window shows it")
    chosen: int | None = Field(None, description="the block whose form is open")
    draft: int | None = Field(None, description="the candidate that the writer's own turn started from")
    round: int | None = Field(None, description="which round of suggestions is shown; None: the latest")
    compare: int | None = Field(None, description="the block whose branch is compared with the current path")
    rewriting: Rewriting | None = Field(None, description="the passage whose versions are shown")
    weights: Weights = Weights()

    @classmethod
    def of(cls, value: object) -> "Place":
        """The place that a browser remembers; whatever is no place is an empty one."""
        try:
            return cls.model_validate(value)
        except ValidationError:
            return cls()

    @classmethod
    def now(cls, place: "Place | None", memory: object) -> "Place":
        """Where the writer is; after a restart of the server, where the browser says."""
        return place if place is not None else cls.of(memory)

    def at(self, **changes: object) -> "Place":
        """A copy with changes."""
        return self.model_copy(update=changes)


@dataclass(frozen=True)
class Offer:
    """A candidate as it is shown."""

    candidate: ShownCandidate
    bars: Mapping[str, float]
    """0 to 1, see Composite.bars; empty when the candidate was scored by another reward."""
    total: float
    """The reward under the writer's weights, standard deviations."""


def start(premise: str, goal: str, characters: str, memory: str = "", style: str = "") -> Story:
    """A new story; characters are separated by commas.

    Raises:
        InputError: no premise, or a field that is too long.
    """
    if not premise.strip():
        raise InputError("Please say first what the story is about (the premise).")
    story_id = uuid.uuid4().hex
    fields = {"premise": premise, "goal": goal, "memory": memory, "style": style}
    return Story(id=story_id, prompt=changed_prompt(Prompt(id=story_id, premise="-"), characters=characters, **fields))


def changed_prompt(prompt: Prompt, **fields: object) -> Prompt:
    """A prompt with other values in some fields; `characters` may be one text with commas.

    Raises:
        InputError: a field is too long or of another kind.
    """
    if isinstance(names := fields.get("characters"), str):
        fields["characters"] = [name.strip() for name in names.split(",") if name.strip()]
    try:
        return Prompt.model_validate({**prompt.model_dump(), **fields})
    except ValidationError as error:
        raise InputError(first_problem(error)) from error


def turn_of(kind: str, actor: str, text: str, author: str = "writer") -> Turn:
    """A turn from what stands in a form.

    Raises:
        InputError: no text, or speech and action without a name.
    """
    if not text.strip():
        raise InputError("Please write the turn's text first.")
    if kind != Kind.NARRATE and not actor.strip():
        raise InputError("Please say who speaks or acts.")
    fields = {"kind": kind, "actor": actor.strip() if kind != Kind.NARRATE else None, "text": text, "author": author}
    try:
        return Turn.model_validate(fields)
    except ValidationError as error:
        raise InputError(first_problem(error)) from error


def edited(old: Turn, kind: str, actor: str, text: str) -> Turn:
    """What a form made of a turn: the model's is marked as edited, unless it stayed as it was.

    Raises:
        InputError: as `turn_of`.
    """
    new = turn_of(kind, actor, text, old.author)
    return new if new == old or old.author == "writer" else new.model_copy(update={"author": "edited"})


def opening(kind: str, who: str = "", words: str = "") -> str:
    """How the line of the model's next turn begins; empty: the model chooses. A kind without a name leaves that open.

    Raises:
        InputError: words of somebody who is not named, or a name that is none.
    """
    if kind not in tuple(Kind):
        return ""
    if kind != Kind.NARRATE and not who.strip():
        if words.strip():
            raise InputError("Please say who speaks or acts.")
        return f"[{kind}"
    line = format_turn(turn_of(kind, who, words or "-"))
    return line if words.strip() else line.removesuffix(" -")


def in_the_manner_of(prompt: Prompt, text: str) -> Prompt:
    """The prompt with a text as an example of the style."""
    style = f"{prompt.style}; " if prompt.style else ""
    return prompt.model_copy(update={"style": f"{style}like this: {text}"})


def beats(goal: str) -> tuple[str, ...]:
    """The steps of a goal, one a line."""
    return tuple(line.strip() for line in goal.splitlines() if line.strip())


def aim(prompt: Prompt, reached: Mapping[str, float]) -> Prompt:
    """The prompt with the first beat that is not reached yet for a goal (the last one when all are).

    Args:
        reached: probability of each beat that is known.
    """
    steps = beats(prompt.goal)
    if len(steps) < 2:
        return prompt
    ahead = [step for step in steps if reached.get(step, 0.0) < REACHED]
    return prompt.model_copy(update={"goal": ahead[0] if ahead else steps[-1]})


def total(scores: Mapping[str, float], reward: Composite, weights: Weights) -> float:
    """The reward of a candidate under the writer's weights, from its stored scores."""
    factors = weights.model_dump()
    return sum(
        factors.get(_GROUPS.get(name, ""), 1.0) * term.weight * term.standardised(scores[name])
        for name, term in reward.terms.items()
        if name in scores
    )


def ranked(candidates: Sequence[ShownCandidate], reward: Composite, weights: Weights) -> list[Offer]:
    """Candidates by total, the highest first; turns that break off in mid-sentence come last."""
    offers = [
        Offer(
            c, reward.bars(c.scores) if c.scores.keys() >= reward.terms.keys() else {}, total(c.scores, reward, weights)
        )
        for c in candidates
    ]
    return sorted(offers, key=lambda o: (not end_at_sentence(o.candidate.turn.text)[1], -o.total))


# --- passages ---------------------------------------------------------------------------------------------------------

KEPT_BEFORE, KEPT_AFTER = "kept before", "kept after"
"""Among the scores of a version: how many characters of its block stand before and after the passage."""


def select(tree: Tree, block: int, start: int, end: int, seen: str, hint: str = "") -> Rewriting:
    """The passage that a writer selected in a block of the current path.

    Args:
        start, end: characters of `seen`.
        seen: the block as the writer saw it, as prose or (in a form, where speech has no quotation marks) its text.

    Raises:
        InputError: it is no passage, or the block is not what the writer saw.
    """
    number = _number_on_path(tree, block)
    turn = tree.path[number].turn
    if seen not in (turn.text, turn.prose()):
        raise InputError("The block is no longer as you see it: save your changes, then select the words again.")
    if seen != turn.text:  # speech: a quotation mark, the words, and who says them
        left = len(turn.text) - len(turn.text.lstrip('"“”')) - 1
        start, end = start + left, end + left
        if start >= len(turn.text):
            raise InputError("Who speaks is not part of the words; select some of what is said.")
    where = passage(tree.story, number, start, end)
    try:
        return Rewriting(block=block, start=where.start, end=where.end, hint=hint.strip())
    except ValidationError as error:
        raise InputError(first_problem(error)) from error


def _number_on_path(tree: Tree, block: int) -> int:
    for number, node in enumerate(tree.path):
        if node.id == block:
            return number
    raise InputError("This block is not in the story any more; select the words again.")


def frame(candidate: ShownCandidate) -> tuple[int, int] | None:
    """How many characters of a version are the block's own, before and after the passage; None: it is no version."""
    found = [candidate.scores.get(name) for name in (KEPT_BEFORE, KEPT_AFTER)]
    numbers = [int(each) for each in found if isinstance(each, int | float) and each >= 0]
    return (numbers[0], numbers[1]) if len(numbers) == 2 else None


def framed(candidate: ShownCandidate, turn: Turn) -> tuple[str, str, str] | None:
    """A version's words before, in and after the passage; None: the turn says something else around it."""
    kept, new = frame(candidate), candidate.turn
    if kept is None or (new.kind, new.actor) != (turn.kind, turn.actor):
        return None
    before, after = turn.text[: kept[0]], turn.text[max(len(turn.text) - kept[1], 0) :]
    same = new.text.startswith(before) and new.text.endswith(after) and sum(kept) < len(turn.text)
    return (before, new.text[len(before) : len(new.text) - len(after)], after) if same else None


def versions_of(rounds: Sequence[Round], turn: Turn) -> tuple[Round, ...]:
    """Those rounds that hold versions of a passage of this turn as it is."""
    return tuple(each for each in rounds if each.candidates and all(framed(c, turn) for c in each.candidates))


def ranked_versions(candidates: Sequence[ShownCandidate], reward: Composite, weights: Weights) -> list[Offer]:
    """Versions of a passage by total and joint together, the best first; those that break off come last."""
    return sorted(
        ranked(candidates, reward, weights),
        key=lambda o: (not end_at_sentence(o.candidate.turn.text)[1], -(o.total + o.candidate.scores.get(FIT, 0.0))),
    )
