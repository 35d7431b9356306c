"""How a tuning goes, as curves: plain SVG, so that the page needs no script and no network for them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from rewards.guards import GUARDS

_WIDTH, _HEIGHT = 320, 90
_COLOURS = 6  # classes line-0 to line-5 of the style sheet
_SEEN = 0.005  # share; guards that never reach it are left out


@dataclass(frozen=True)
class Line:
    """A curve: one value a step."""

    name: str
    values: Sequence[float]


@dataclass(frozen=True)
class Chart:
    """Curves over the same steps. `exact` says in the terms of the field what is drawn; `named`: with their names."""

    title: str
    exact: str
    lines: Sequence[Line]
    unit: str = ""
    named: bool = False
    is_share: bool = False
    limit: float = 0.0

    def number(self, value: float) -> str:
        """A value as people read it, without its unit."""
        return f"{value:.0%}" if self.is_share else f"{value:.2f}"


def charts(rows: Sequence[Mapping[str, Any]], steps: int, kl_budget: float) -> str:
    """The curves of a run that is to take so many steps, from the lines of its metrics.jsonl; "" before the first."""
    if not rows:
        return ""
    figures = "".join(_figure(chart, steps) for chart in _charts(rows, kl_budget))
    return f'<div class="charts">{figures}</div>'


def _charts(rows: Sequence[Mapping[str, Any]], kl_budget: float) -> list[Chart]:
    scores = {name: [row["scores"][name]["mean"] for row in rows] for name in rows[0]["scores"]}
    found = [
        Chart(
            "All in all",
            "Mean reward of the step's stories: the weighted sum of standardised scores, without the KL term",
            [Line("reward", [row["reward"] for row in rows])],
        )
    ]
    if "goal" in scores:
        exact = "Mean probability that the story's goal has happened"
        found.append(Chart("Reaches the goal", exact, [Line("goal", scores.pop("goal"))], is_share=True))
    if "preference" in scores:
        exact = "Mean preference score with your taste, nats"
        found.append(Chart("To your taste", exact, [Line("preference", scores.pop("preference"))]))
    exact = "KL to the policy that it started from, nats a story" + (f"; ends above {kl_budget:g}" if kl_budget else "")
    kl = [Line("KL", [row["kl"] for row in rows])]
    found.append(Chart("How far it has moved", exact, kl, " nats", limit=kl_budget))
    guards = [Line(name, scores.pop(name)) for name in GUARDS if name in scores]
    seen = [line for line in guards if max(line.values) >= _SEEN]
    if guards:
        exact = "Mean of each guard, as a share of the story; those that stayed at 0 are left out"
        found.append(
            Chart("Faults in the stories", exact, seen or [Line("none", [0.0] * len(rows))], named=True, is_share=True)
        )
    return found + [Chart(name, "Mean score, in its own unit", [Line(name, values)]) for name, values in scores.items()]


def _figure(chart: Chart, steps: int) -> str:
    values = [value for line in chart.lines for value in line.values]
    low, high = min([*values, 0.0] if chart.is_share else values), max([*values, 0.01] if chart.is_share else values)
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    drawn = "".join(
        f'<polyline class="line line-{number % _COLOURS}" points="{_points(line.values, steps, low, high)}"/>'
        for number, line in enumerate(chart.lines)
    )
    if low < chart.limit <= high:
        at = _HEIGHT * (high - chart.limit) / (high - low)
        drawn += f'<line class="limit" x1="0" x2="{_WIDTH}" y1="{at:.1f}" y2="{at:.1f}"/>'
    count = len(chart.lines[0].values)
    says = "; ".join(
        f"{line.name} from {chart.number(line.values[0])} to {chart.number(line.values[-1])}" for line in chart.lines
    )
    label = escape(f"{chart.title}, after {count} of {steps} steps: {says}.")
    return (
        f'<figure class="chart" title="{escape(chart.exact)}"><figcaption><span>{escape(chart.title)}</span>'
        f"{_legend(chart)}</figcaption>"
        f'<div class="plot"><span class="high" aria-hidden="true">{chart.number(high)}</span>'
        f'<span class="low" aria-hidden="true">{chart.number(low)}</span>'
        f'<svg viewBox="-3 -4 {_WIDTH + 6} {_HEIGHT + 8}" preserveAspectRatio="none" role="img" aria-label="{label}">'
        f"{drawn}</svg></div></figure>"
    )


def _legend(chart: Chart) -> str:
    if not chart.named:
        return f"<b>{chart.number(chart.lines[0].values[-1])}{chart.unit}</b>"
    return "".join(
        f'<b class="key key-{number % _COLOURS}">{escape(line.name)} {chart.number(line.values[-1])}</b>'
        for number, line in enumerate(chart.lines)
    )


def _points(values: Sequence[float], steps: int, low: float, high: float) -> str:
    """Corners of the line; a single value is drawn as a point."""
    gap = _WIDTH / max(steps - 1, 1)
    corners = [f"{n * gap:.1f},{_HEIGHT * (high - v) / (high - low):.1f}" for n, v in enumerate(values)]
    return " ".join(corners * 2 if len(corners) == 1 else corners)


def before_and_after(before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]], most: int = 3) -> str:
    """Stories for the same held-out prompts, folded away; records as `storyrl generate` writes them."""
    later = {record["prompt"]["id"]: record for record in reversed(after)}
    rows = ""
    for record in before[:most]:
        other = later.get(record["prompt"]["id"])
        second = _story("after", other["text"]) if other else ""
        rows += f'<p class="about">{escape(record["prompt"]["premise"])}</p><div class="sides">'
        rows += f"{_story('before', record['text'])}{second}</div>"
    if not rows:
        return ""
    hint = "For an honest judgement do the blind test below first: here it is written which is which."
    return f'<details class="told"><summary>Stories before{" and after" if after else ""}</summary><p class="hint">' + (
        f"{hint}</p>{rows}</details>" if after else f"Written before the tuning.</p>{rows}</details>"
    )


def latest_sample(samples: Sequence[dict[str, Any]]) -> str:
    """The best story of the latest step."""
    if len(samples) < 2:
        return ""
    best = samples[-2]  # each step leaves its best and its worst
    return (
        f'<div class="sample"><h4>The best story of step {best["step"] + 1}</h4>'
        f'<p class="about">{escape(best["prompt"]["premise"])}</p>{_paragraphs(best["text"])}</div>'
    )


def _story(title: str, text: str) -> str:
    return f"<div><h4>{title}</h4>{_paragraphs(text)}</div>"


def _paragraphs(text: str) -> str:
    return "".join(f"<p>{escape(paragraph)}</p>" for paragraph in text.split("\n\n"))
