"""Plots of the rewards' report as {"title", "data", "layout"}; the last two are plotly's, the page writes the title."""

from collections.abc import Mapping, Sequence
from typing import Any

from tests.bench.metrics import Estimate

Plot = dict[str, Any]

BLUE = "rgb(80, 125, 195)"
_COLOURS = (BLUE, "rgb(200, 120, 60)", "rgb(95, 160, 110)", "rgb(150, 110, 180)", "rgb(140, 140, 140)")
_BANDS = ("rgba(80, 125, 195, 0.18)", "rgba(200, 120, 60, 0.18)")


def layout(x: str, y: str = "", height: int = 260, legend: bool = False, **axes: Any) -> dict[str, Any]:
    """Sizes and axes; `xaxis` and `yaxis` add to the two axes."""
    axis = {"gridcolor": "rgba(128,128,128,0.22)", "zeroline": False, "automargin": True}
    axis |= {"ticks": "outside", "ticklen": 5, "tickcolor": "rgba(0,0,0,0)"}
    titles = ({"title": {"text": text, "font": {"size": 12}}} if text else {} for text in (x, y))
    return {
        "height": height,
        "margin": {"l": 44, "r": 12, "t": 8, "b": 40},
        "showlegend": legend,
        "legend": {"orientation": "h", "y": -50 / (height - 48), "yanchor": "top"},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "size": 12},
    } | {name: axis | title | axes.get(name, {}) for name, title in zip(("xaxis", "yaxis"), titles, strict=True)}


def reliability(title: str, rows: Sequence[Mapping[str, float]]) -> Plot:
    """Share of reached goals against their mean probability, by tenth; the larger the dot, the more goals."""
    most = max(row["n"] for row in rows)
    diagonal: Plot = {"x": [0, 1], "y": [0, 1], "mode": "lines", "hoverinfo": "skip"}
    diagonal["line"] = {"color": "rgba(128,128,128,0.6)", "width": 1, "dash": "dot"}
    dots = {
        "x": [row["probability"] for row in rows],
        "y": [row["share"] for row in rows],
        "text": [f"{row['n']} goals" for row in rows],
        "mode": "lines+markers",
        "line": {"color": BLUE, "width": 1},
        "marker": {"size": [6 + 14 * (row["n"] / most) ** 0.5 for row in rows]},
        "hovertemplate": "%{x:.2f} said, %{y:.2f} reached, %{text}<extra></extra>",
    }
    unit = {"range": [-0.04, 1.04]}
    return {
        "title": title,
        "data": [diagonal, dots],
        "layout": layout("probability", "reached", xaxis=unit, yaxis=unit),
    }


def bars(title: str, x: str, rows: Mapping[str, Estimate], whole: Sequence[float] | None = (0, 1)) -> Plot:
    """One bar a row with its interval, the first row on top; `whole` is the range of the axis."""
    names = list(rows)[::-1]  # plotly stacks from below
    values = [rows[name]["value"] for name in names]
    bar: dict[str, Any] = {"type": "bar", "orientation": "h", "x": values, "y": names, "marker": {"color": BLUE}}
    bar["hovertemplate"] = "%{x:.3f}<extra></extra>"
    if all("low" in row for row in rows.values()):
        bar["error_x"] = _whiskers([rows[name] for name in names])
    axis = {"range": list(whole)} if whole else {}
    return {"title": title, "data": [bar], "layout": layout(x, height=70 + 22 * len(names), xaxis=axis)}


def dots(title: str, x: str, series: Mapping[str, Mapping[str, Estimate]], chance: float) -> Plot:
    """Series of dots with intervals, a line for each row, the first row on top; a dotted line at chance."""
    rows = list(dict.fromkeys(row for some in series.values() for row in some))
    names, height = rows[::-1], 110 + (16 * len(series) + 10) * len(rows)
    traces: list[dict[str, Any]] = []
    for number, (label, some) in enumerate(series.items()):
        shown = [name for name in names if name in some and some[name]["value"] is not None]
        shift = (len(series) - 1) / 2 - number
        traces.append(
            {
                "x": [some[name]["value"] for name in shown],
                "y": [names.index(name) + 0.7 * shift / len(series) for name in shown],
                "text": shown,
                "name": label,
                "mode": "markers",
                "marker": {"color": _COLOURS[number % len(_COLOURS)], "size": 8},
                "error_x": _whiskers([some[name] for name in shown]),
                "hovertemplate": "%{text}: %{x:.3f}<extra>" + label + "</extra>",
            }
        )
    ticks = {"tickvals": list(range(len(names))), "ticktext": names, "range": [-0.6, len(names) - 0.4]}
    figure = layout(x, height=height, legend=True, yaxis=ticks)
    line = {"color": "rgba(128,128,128,0.6)", "width": 1, "dash": "dot"}
    figure["shapes"] = [{"type": "line", "x0": chance, "x1": chance, "y0": 0, "y1": 1, "yref": "paper", "line": line}]
    return {"title": title, "data": traces, "layout": figure, "wide": True}


def _whiskers(rows: Sequence[Estimate]) -> dict[str, Any]:
    return {
        "type": "data",
        "symmetric": False,
        "array": [row["high"] - row["value"] if row["value"] is not None else 0 for row in rows],
        "arrayminus": [row["value"] - row["low"] if row["value"] is not None else 0 for row in rows],
        "thickness": 1,
        "width": 3,
        "color": "rgba(128,128,128,0.9)",
    }


def curves(title: str, x: str, steps: Sequence[float], series: Mapping[str, Mapping[str, Sequence[float]]]) -> Plot:
    """Lines of `mean` with a band from `low` to `high`."""
    traces: list[dict[str, Any]] = []
    for number, some in enumerate(series.values()):
        band: Plot = {"x": [*steps, *steps[::-1]], "y": [*some["high"], *list(some["low"])[::-1]], "fill": "toself"}
        band |= {"fillcolor": _BANDS[number], "mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
        traces.append(band | {"showlegend": False})
    for number, (label, some) in enumerate(series.items()):
        line: Plot = {"x": list(steps), "y": list(some["mean"]), "name": label, "mode": "lines+markers"}
        traces.append(line | {"line": {"color": _COLOURS[number], "width": 2}})
    axis = {"tickvals": list(steps), "type": "log"}
    return {"title": title, "data": traces, "layout": layout(x, legend=True, xaxis=axis)}
