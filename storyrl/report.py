"""The report: one self-contained HTML page with what changed, the curves, and the stories side by side.

Story text, prompts and names are escaped by the template; plotly's script is inlined, so the page needs no network.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from storyrl.evaluate import Difference, compare
from storyrl.files import atomic_writer

_COLOURS = {"light": "rgba(70, 110, 170, 0.35)", "strong": "rgb(60, 100, 170)", "band": "rgba(70, 110, 170, 0.15)"}


def write_report(
    out: Path,
    *,
    title: str,
    subtitle: str,
    before: Sequence[dict[str, Any]],
    after: Sequence[dict[str, Any]],
    labels: tuple[str, str] = ("before tuning", "after tuning"),
    metrics: Sequence[dict[str, Any]] = (),
    settings: dict[str, Any] | None = None,
) -> list[Difference]:
    """Write the page and return the differences it shows.

    Args:
        before, after: story records as `storyrl generate` writes them, paired by prompt id.
        metrics: lines of a run's metrics.jsonl; without them the page has no curves.

    Raises:
        InputError: the records cannot be compared, or the file cannot be written.
    """
    differences = compare(before, after)
    environment = Environment(
        loader=PackageLoader("storyrl"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    plots = _plots(metrics)
    page = environment.get_template("report.html.j2").render(
        title=title,
        subtitle=subtitle,
        labels=labels,
        headline=headline(differences),
        differences=differences,
        pairs=_pairs(before, after),
        plots=plots,
        plotly=Markup(get_plotlyjs()) if plots else "",
        settings=settings or {},
    )
    with atomic_writer(out) as handle:
        handle.write(page)
    return differences


def headline(differences: Sequence[Difference]) -> str:
    """What happened to the goal score (or else the reward), in one sentence."""
    main = next((d for d in differences if d.name == "goal"), differences[0])
    if not main.is_clear:
        verdict = f"No clear change in {main.name} score"
    else:
        verdict = f"The {main.name} score {'rose' if main.difference > 0 else 'fell'}"
    return (
        f"{verdict}: {main.before:.3f} to {main.after:.3f}, a difference of {main.difference:+.3f} "
        f"(95 % interval {main.low:+.3f} to {main.high:+.3f}) over {main.prompts} held-out prompts."
    )


def _pairs(before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a prompt with its first story of each side, by rising change of the goal score (or reward)."""
    second = {}
    for record in after:
        second.setdefault(record["prompt"]["id"], record)
    rows, seen = [], set()
    for record in before:
        prompt = record["prompt"]["id"]
        if prompt in second and prompt not in seen:
            seen.add(prompt)
            change = _main_score(second[prompt]) - _main_score(record)
            rows.append({"prompt": record["prompt"], "stories": [record, second[prompt]], "change": change})
    return sorted(rows, key=lambda row: -row["change"])


def _main_score(record: dict[str, Any]) -> float:
    return float(record["scores"].get("goal", record["reward"]))


def _plots(metrics: Sequence[dict[str, Any]]) -> list[Markup]:
    if not metrics:
        return []
    steps = [row["step"] for row in metrics]
    figures = [
        _curve("reward (deviations)", steps, [row["reward"] for row in metrics]),
        _curve("KL to the reference (nats a story)", steps, [row["kl"] for row in metrics]),
    ]
    for name in metrics[0]["scores"]:
        means = [row["scores"][name]["mean"] for row in metrics]
        spread = [row["scores"][name]["std"] for row in metrics]
        figures.append(_curve(f"{name} score", steps, means, spread))
    figures.append(_time(metrics))
    return [
        Markup(
            figure.to_html(
                full_html=False, include_plotlyjs=False, config={"displayModeBar": False, "responsive": True}
            )
        )
        for figure in figures
    ]


def _curve(name: str, steps: list[int], values: list[float], spread: list[float] | None = None) -> go.Figure:
    figure = go.Figure()
    if spread:
        upper, lower = ([v + sign * s for v, s in zip(values, spread, strict=True)] for sign in (1, -1))
        band = {"x": steps + steps[::-1], "y": upper + lower[::-1], "fill": "toself", "fillcolor": _COLOURS["band"]}
        figure.add_scatter(**band, line={"width": 0}, hoverinfo="skip")
    figure.add_scatter(x=steps, y=values, line={"color": _COLOURS["light"], "width": 1}, name="step")
    figure.add_scatter(
        x=steps, y=_running_mean(values), line={"color": _COLOURS["strong"], "width": 3}, name="mean of 5"
    )
    return _styled(figure, name)


def _running_mean(values: Sequence[float], width: int = 5) -> list[float]:
    return [sum(values[max(0, i - width + 1) : i + 1]) / min(i + 1, width) for i in range(len(values))]


def _time(metrics: Sequence[dict[str, Any]]) -> go.Figure:
    phases = list(metrics[0]["seconds"])
    means = [sum(row["seconds"].get(phase, 0.0) for row in metrics) / len(metrics) for phase in phases]
    return _styled(
        go.Figure(go.Bar(x=means, y=phases, orientation="h", marker_color=_COLOURS["strong"])), "seconds a step"
    )


def _styled(figure: go.Figure, name: str) -> go.Figure:
    return figure.update_layout(
        title={"text": name, "font": {"size": 14}},
        height=240,
        margin={"l": 50, "r": 15, "t": 40, "b": 30},
        showlegend=False,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": "#888", "family": "system-ui, sans-serif"},
        xaxis={"gridcolor": "rgba(128,128,128,0.2)"},
        yaxis={"gridcolor": "rgba(128,128,128,0.2)"},
    )
