"""The goal meter: how likely each step of the goal has happened after each turn, as a curve and as ticked beats."""

from collections.abc import Mapping, Sequence
from html import escape

from rewards.base import Scorer, StoryText
from storyrl.agent import Agent
from storyrl.story import Prompt, Story
from ui.html import area, attributes
from ui.session import REACHED, aim, beats

_WIDTH, _HEIGHT = 320, 90
_KEPT = 100_000  # readings; a story of a hundred turns with five beats has 500
Curves = Mapping[str, Sequence[float]]
"""Of each beat the probability after each turn."""


class GoalMeter:
    """Reads turns with the goal classifier and remembers what it read.

    It is for all writers; `read` is for a job of the Pen, the rest can be asked at any time.

    The classifier takes the clearest passage of a story, and no passage is longer than a paragraph, as a turn is: so
    the probability after a turn is the highest of the turns so far, each read by itself. That is what
    `GoalReached.progress` gives, but a new turn or an edit costs one reading instead of the whole story.
    """

    def __init__(self, agent: Agent):
        term = agent.reward.terms.get("goal")
        self._scorer: Scorer | None = term.scorer if term else None
        self._known: dict[tuple[str, str], float] = {}

    @property
    def works(self) -> bool:
        """Whether the reward has a goal term."""
        return self._scorer is not None

    def unread(self, story: Story) -> list[tuple[str, str]]:
        """The (turn, beat) pairs that the classifier has not read yet."""
        if self._scorer is None:
            return []
        steps, turns = beats(story.prompt.goal), [turn.prose() for turn in story.turns]
        return list(dict.fromkeys((t, s) for s in steps for t in turns if (t, s) not in self._known))

    def read(self, story: Story, most: int | None = None) -> Curves:
        """The curves of the story's beats; runs the classifier on what it has not read yet, or on `most` of it."""
        new = self.unread(story)[:most]
        if self._scorer is None or not new:
            return self.known(story)
        scores = self._scorer.score([StoryText(t, s, story.prompt.premise, finished=False) for t, s in new])
        self._known.update(zip(new, scores, strict=True))
        while len(self._known) > max(_KEPT, len(new)):
            del self._known[next(iter(self._known))]
        return self.known(story)

    def known(self, story: Story) -> Curves:
        """The curves of those beats for which every turn was read already."""
        curves: dict[str, list[float]] = {}
        for step in beats(story.prompt.goal):
            readings = [self._known.get((turn.prose(), step)) for turn in story.turns]
            if self._scorer is not None and None not in readings:
                curves[step] = [max(r for r in readings[:n] if r is not None) for n in range(1, len(readings) + 1)]
        return curves

    def aimed(self, story: Story) -> Story:
        """The story as the model gets it: with the first beat that was not reached for a goal."""
        return story.model_copy(update={"prompt": aim(story.prompt, now(self.known(story)))})

    def before(self, story: Story) -> float | None:
        """The probability of what `aimed` makes the goal, without a further turn; None: not read yet."""
        return now(self.known(story)).get(self.aimed(story).prompt.goal.strip())


def now(curves: Curves) -> dict[str, float]:
    """The probability of each beat at the end of the story."""
    return {step: curve[-1] if curve else 0.0 for step, curve in curves.items()}


def goal_panel(prompt: Prompt, curves: Curves, works: bool = True) -> str:
    """The goal's form, its beats and its curve."""
    given = attributes({"data-autosave": True, "data-do": "prompt", "data-on": "input"})
    form = (
        f'<form class="desk-form" aria-label="Goal"{given}>'
        + area("Goal: an event, or several, one a line", "goal", prompt.goal, rows=3, maxlength=4000)
        + '<p class="hint">Saved when you leave the field. Of several, the model aims at the first that has not '
        "happened yet.</p></form>"
    )
    steps = beats(prompt.goal)
    if not steps:
        return f'{form}<p class="hint">Without a goal the suggestions are sorted by taste and cleanness.</p>'
    if not works:
        return f'{form}<p class="hint">This studio was started without the goal classifier (--reward goal=0).</p>'
    ends = now(curves)
    rows = "".join(_beat(step, ends.get(step)) for step in steps)
    return f'{form}<ol class="beats" aria-label="Steps of the goal">{rows}</ol>{curve(curves)}'


def _beat(step: str, probability: float | None) -> str:
    reached = probability is not None and probability >= REACHED
    number = "not read yet" if probability is None else f"{probability:.0%}"
    mark, word = ("✓", "has happened") if reached else ("○", "not yet")
    return (
        f'<li><span class="mark" role="img" aria-label="{word}">{mark}</span> {escape(step)} '
        f'<span class="by">{number}</span></li>'
    )


def curve(curves: Curves) -> str:
    """One line a beat over the turns, 0 to 100 %, with a text that says the same."""
    longest = max((len(points) for points in curves.values()), default=0)
    if longest == 0:
        return ""
    lines = "".join(
        f'<polyline class="line line-{number % 4}" points="{_points(points)}"/>'
        for number, points in enumerate(curves.values())
    )
    half = _HEIGHT * (1 - REACHED)
    says = " ".join(f"{step}: {', '.join(f'{point:.0%}' for point in points)}." for step, points in curves.items())
    return (
        f'<figure class="curve"><svg viewBox="-2 -4 {_WIDTH + 4} {_HEIGHT + 8}" role="img" preserveAspectRatio="none" '
        f'aria-label="{escape(f"Probability after each turn. {says}")}"><line class="half" x1="0" x2="{_WIDTH}" '
        f'y1="{half:g}" y2="{half:g}"/>{lines}</svg><figcaption>How likely it has happened, after each of '
        f"{longest} {'turn' if longest == 1 else 'turns'} (dashed: {REACHED:.0%})</figcaption></figure>"
    )


def _points(points: Sequence[float]) -> str:
    """Corners of a line that starts at 0 before the first turn."""
    step = _WIDTH / len(points)
    return " ".join(f"{n * step:.1f},{_HEIGHT * (1 - p):.1f}" for n, p in enumerate([0.0, *points]))
