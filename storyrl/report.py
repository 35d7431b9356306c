"""The report: one self-contained HTML page with what changed, the curves, and the stories side by side.

The template escapes all text, plotly's script is inlined, and the page's content policy forbids it any network access.
What it leaves out: reading files and choosing what to compare, which is the caller's.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from storyrl.errors import InputError
from storyrl.evaluate import FEWEST_PROMPTS, Difference, compare, means_by_prompt
from storyrl.files import atomic_writer

_RAW, _MEAN, _BAND = "rgba(80, 125, 195, 0.55)", "rgb(80, 125, 195)", "rgba(80, 125, 195, 0.18)"
_RUNNING = 5  # steps in a running mean
_UNFOLDED = 12  # prompts that are shown without folding any away
_SHOWN = 3  # prompts left open at the top, in the middle and at the end of a longer list
_MEANINGS = {
    "reward": "weighted sum of standardised scores",
    "words": "a story",
    "turns": "a story",
    "say_share": "share of the turns that are speech",
    "distinct_3": "share of word trigrams that are distinct",
}


def write_report(
    out: Path,
    *,
    title: str,
    subtitle: str,
    before: Sequence[dict[str, Any]],
    after: Sequence[dict[str, Any]],
    labels: tuple[str, str] = ("before tuning", "after tuning"),
    metrics: Sequence[dict[str, Any]] = (),
    settings: Mapping[str, Any] | None = None,
) -> list[Difference]:
    """Write the page and return the differences it shows.

    Args:
        out: the HTML file; replaced as a whole, or left alone when something fails.
        title: the page's heading.
        subtitle: a line below it; may be empty.
        before: story records as `storyrl generate` writes them.
        after: the same for the other side, paired by prompt id.
        labels: what the two sides are called.
        metrics: lines of a run's metrics.jsonl; without them the page has no curves and calls nothing held out.
        settings: shown as a table at the end; nested tables are flattened.

    Raises:
        InputError: the records cannot be compared, or the file cannot be written.
    """
    differences = compare(before, after)
    main = _main(differences)
    environment = Environment(
        loader=PackageLoader("storyrl"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html.j2").render(
        title=title,
        subtitle=subtitle,
        labels=labels,
        headline=headline(differences, held_out=bool(metrics)),
        main=main,
        fewest=FEWEST_PROMPTS,
        differences=differences,
        meanings=_MEANINGS,
        groups=_groups(_pairs(before, after, main.name)),
        plots=_plots(metrics) if metrics else [],
        running=_RUNNING,
        plotly=Markup(get_plotlyjs()) if metrics else "",
        settings=list(_flat(settings or {})),
    )
    with atomic_writer(out) as handle:
        handle.write(page)
    return differences


def headline(differences: Sequence[Difference], held_out: bool = True) -> str:
    """What happened to the goal score (without one, to the reward), in one sentence."""
    main = _main(differences)
    name = "reward" if main.name == "reward" else f"{main.name} score"
    prompts = f"{main.n} {'held-out ' if held_out else ''}prompt{'' if main.n == 1 else 's'}"
    if main.n < FEWEST_PROMPTS:
        verdict = f"Too few prompts to tell whether the {name} changed"
    elif not main.is_clear:
        verdict = f"No clear change in the {name}"
    else:
        verdict = f"The {name} {'rose' if main.difference > 0 else 'fell'}"
    return (
        f"{verdict}: {main.before:.3f} to {main.after:.3f}, a difference of {main.difference:+.3f} "
        f"(95 % interval {main.low:+.3f} to {main.high:+.3f}) over {prompts}."
    )


def _main(differences: Sequence[Difference]) -> Difference:
    by_name = {difference.name: difference for difference in differences}
    return by_name["goal" if "goal" in by_name else "reward"]


def _pairs(before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]], measure: str) -> list[dict[str, Any]]:
    """A row for each prompt of both sides: the prompt, each side's stories, the change; greatest rise first."""
    means = [means_by_prompt(records) for records in (before, after)]
    rows: dict[str, dict[str, Any]] = {}
    for record in before:
        prompt = record["prompt"]
        if prompt["id"] in means[1]:
            change = means[1][prompt["id"]][measure] - means[0][prompt["id"]][measure]
            row = {"prompt": prompt, "before": [], "after": [], "change": change}
            rows.setdefault(prompt["id"], row)
    for side, records in (("before", before), ("after", after)):
        for record in records:
            if record["prompt"]["id"] in rows:
                _check_shown(record)
                rows[record["prompt"]["id"]][side].append(record)
    return sorted(rows.values(), key=lambda row: -row["change"])


def _check_shown(record: dict[str, Any]) -> None:
    if "premise" not in record["prompt"] or not all("text" in turn for turn in record["turns"]):
        raise InputError(
            f"story of prompt '{record['prompt']['id']}': its premise or the text of a turn is missing; "
            "expected lines of `storyrl generate`"
        )


def _groups(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows in order, cut into parts of which the long ones are folded: top, ..., middle, ..., end."""
    if len(rows) <= _UNFOLDED:
        return [{"id": "", "title": "", "folded": False, "rows": rows}]
    middle = len(rows) // 2 - _SHOWN // 2
    cuts = [0, _SHOWN, middle, middle + _SHOWN, len(rows) - _SHOWN, len(rows)]
    parts = [rows[start:end] for start, end in pairwise(cuts)]
    names = [("top", "Greatest rise"), None, ("middle", "Middle"), None, ("end", "Greatest fall or smallest rise")]
    return [
        {"id": name[0] if name else "", "title": name[1] if name else "", "folded": name is None, "rows": part}
        for name, part in zip(names, parts, strict=True)
    ]


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _plots(metrics: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Plots as {"title", "data", "layout"}; the last two are plotly's, and the template writes the title."""
    steps = [row["step"] for row in metrics]
    plots = [
        _curve("Reward (standard deviations)", steps, [row["reward"] for row in metrics]),
        _curve("KL to the reference (nats a story)", steps, [row["kl"] for row in metrics]),
    ]
    for name in metrics[0]["scores"]:
        scores = [row["scores"][name] for row in metrics]
        plots.append(_curve(f"Score: {name}", steps, [s["mean"] for s in scores], [s["std"] for s in scores]))
    return [*plots, _time(metrics)]


def _curve(title: str, steps: list[int], values: list[float], spread: list[float] | None = None) -> dict[str, Any]:
    traces: list[dict[str, Any]] = []
    if spread:
        upper, lower = ([v + sign * s for v, s in zip(values, spread, strict=True)] for sign in (1, -1))
        traces.append(
            {"x": steps + steps[::-1], "y": upper + lower[::-1], "fill": "toself", "fillcolor": _BAND}
            | {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
        )
    traces.append({"x": steps, "y": values, "mode": "lines", "name": "step", "line": {"color": _RAW, "width": 1}})
    mean = {"x": steps, "y": _running_mean(values), "mode": "lines", "line": {"color": _MEAN, "width": 3}}
    traces.append(mean | {"name": f"mean of {_RUNNING}"})
    return {"title": title, "data": traces, "layout": _layout("step")}


def _running_mean(values: Sequence[float]) -> list[float]:
    windows = [values[max(0, end - _RUNNING) : end] for end in range(1, len(values) + 1)]
    return [sum(window) / len(window) for window in windows]


def _time(metrics: Sequence[dict[str, Any]]) -> dict[str, Any]:
    phases = list(metrics[0]["seconds"])[::-1]  # plotly stacks bars from below
    means = [sum(row["seconds"][phase] for row in metrics) / len(metrics) for phase in phases]
    bar = {"type": "bar", "orientation": "h", "x": means, "y": phases, "marker": {"color": _MEAN}}
    return {
        "title": f"Where the time went ({sum(means):.1f} seconds a step)",
        "data": [bar | {"hovertemplate": "%{x:.2f} s<extra></extra>"}],
        "layout": _layout("seconds a step"),
    }


def _layout(x: str) -> dict[str, Any]:
    axis = {"gridcolor": "rgba(128,128,128,0.22)", "zeroline": False, "automargin": True}
    axis |= {"ticks": "outside", "ticklen": 5, "tickcolor": "rgba(0,0,0,0)"}
    return {
        "height": 230,
        "margin": {"l": 44, "r": 12, "t": 8, "b": 40},
        "showlegend": False,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "size": 12},
        "xaxis": axis | {"title": {"text": x, "font": {"size": 12}}},
        "yaxis": axis,
    }
