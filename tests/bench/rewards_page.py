"""The rewards' report as one self-contained HTML page, and its main tables as text."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from storyrl.files import atomic_writer
from tests.bench.page_blocks import Table, goal_table, preference_table, sections

_TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; \
script-src 'unsafe-inline'; img-src data: blob:">
<title>{{ title }}</title>
<style>
:root { color-scheme: light dark; --ink: #222; --soft: #63605a; --paper: #fdfcf9; --line: #ddd8cc; --accent: #3c64aa; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e3dc; --soft: #a8a49b; --paper: #1b1b1d; --line: #3a3a3e; --accent: #8fb0e8; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1120px; padding: 1.5rem 1rem 4rem; color: var(--ink); background: var(--paper);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.2rem; margin: 2.75rem 0 .5rem; } 
h3 { font-size: .95rem; margin: 1.5rem 0 .4rem; }
a, summary { color: var(--accent); } summary { cursor: pointer; padding: .4rem 0; font-size: .9rem; }
nav { display: flex; flex-wrap: wrap; gap: 0 1rem; }
.note { color: var(--soft); font-size: .85rem; max-width: 50rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; }
th, td { padding: .3rem .55rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top;
  font-variant-numeric: tabular-nums; }
th { color: var(--soft); font-weight: 600; vertical-align: bottom; max-width: 7rem; }
th:first-child, td:first-child { text-align: left; padding-left: 0; position: sticky; left: 0; background: var(--paper);
  min-width: 6.5rem; max-width: 11rem; white-space: pre-wrap; }
small { display: block; color: var(--soft); font-size: .74rem; max-width: 11rem; margin-left: auto; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px), 1fr));
  gap: 1.25rem 1rem; margin-top: 1.5rem; }
.plots figure { margin: 0; min-width: 0; overflow: hidden; break-inside: avoid; } .plots .whole { grid-column: 1 / -1; }
figcaption { font-size: .85rem; font-weight: 600; }
.plots text { fill: var(--soft) !important; } .plots .hovertext text { fill: #fff !important; }
@media (max-width: 640px) { body { font-size: 15px; } th, td { padding: .3rem .3rem; } }
</style>
<script>{{ plotly }}</script>
</head>
<body>
<h1>{{ title }}</h1>
<p class="note">{{ subtitle }}</p>
<nav>{% for section in sections %}<a href="#{{ section.id }}">{{ section.id.capitalize() }}</a>{% endfor %}</nav>
{% for section in sections %}
<h2 id="{{ section.id }}">{{ section.title }}</h2>
{% for table in section.tables %}
{% if table.folded %}<details><summary>{{ table.title }}</summary>{% else %}<h3>{{ table.title }}</h3>{% endif %}
<div class="wide"><table>
<thead><tr>{% for name in table.head %}<th>{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in table.rows %}
<tr>{% for cell in row %}<td>{{ cell.text }}{% if cell.small %}<small>{{ cell.small }}</small>{% endif %}</td>\
{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% if table.note %}<p class="note">{{ table.note }}</p>{% endif %}
{% if table.folded %}</details>{% endif %}
{% endfor %}
{% if section.plots %}
<div class="plots">{% for plot in section.plots %}<figure{% if plot.wide %} class="whole"{% endif %}>\
<figcaption>{{ plot.title }}</figcaption><div class="plot"></div></figure>{% endfor %}</div>
{% endif %}
{% for note in section.notes %}<p class="note">{{ note }}</p>{% endfor %}
{% endfor %}
<script>
const plots = {{ plots|tojson }};
document.querySelectorAll(".plot").forEach((place, i) => Plotly.newPlot(place, plots[i].data, plots[i].layout, \
{displayModeBar: false, responsive: true}));
</script>
</body>
</html>
"""


def write_page(out: Path, figures: Mapping[str, Any]) -> None:
    """Write the page, whole or not at all.

    Args:
        out: the HTML file.
        figures: as tests/bench/judges.py makes them.
    """
    parts = [asdict(section) | {"plots": list(section.plots)} for section in sections(figures)]
    for part in parts:
        part["plots"] = [{"wide": False} | plot for plot in part["plots"]]
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(_TEMPLATE).render(
        title="What the reward models are worth",
        subtitle=_subtitle(figures),
        sections=parts,
        plots=[plot for part in parts for plot in part["plots"]],
        plotly=Markup(get_plotlyjs()),
    )
    with atomic_writer(out) as handle:
        handle.write(page)


def _subtitle(figures: Mapping[str, Any]) -> str:
    minutes = sum(figures["seconds"].values()) / 60
    part = "A part of each set only (--quick): whether it runs, not what it says. " if figures["quick"] else ""
    return f"{part}Held-out figures with 95 % intervals, made in {minutes:.1f} minutes by tests/bench/judges.py."


def main_table(figures: Mapping[str, Any]) -> str:
    """The goal classifier's and the preference model's tables as text."""
    return "\n\n".join(
        _as_text(table) for table in (goal_table(figures["goal"]), preference_table(figures["preference"]))
    )


def _as_text(table: Table) -> str:
    rows = [
        list(table.head),
        *([f"{cell.text} [{cell.small}]" if cell.small else cell.text for cell in row] for row in table.rows),
    ]
    widths = [max(len(row[at]) for row in rows) for at in range(len(table.head))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([table.title, *lines])
