"""The report page: whole or absent, escaped, self-contained, and with every prompt on it."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from jinja2 import TemplateNotFound

from storyrl.errors import InputError
from storyrl.evaluate import Difference
from storyrl.report import headline, write_report

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


def record(prompt: str, goal: float, text: str = "The rain stopped.", score: str = "goal") -> dict[str, Any]:
    return {
        "id": f"{prompt}-0",
        "prompt": {"id": prompt, "premise": f"Premise of {prompt}.", "goal": "It sinks."},
        "turns": [
            {"kind": "narrate", "actor": None, "text": text},
            {"kind": "say", "actor": "Mira", "text": '"Stay."'},
            {"kind": "do", "actor": "Tom", "text": "Tom left."},
        ],
        "text": text,
        "scores": {score: goal},
        "reward": goal,
        "policy": "p",
        "seed": 0,
        "tokens": 5,
    }


def metric(step: int, score: str = "goal") -> dict[str, Any]:
    seconds = {"sampling": 7.0, "rewards": 1.0, "reference": 4.0, "gradient": 12.0, "optimiser": 0.1}
    scores = {score: {"mean": 0.5 + 0.01 * step, "std": 0.1}}
    return {"step": step, "reward": 0.1 * step, "kl": 0.2 * step, "scores": scores, "seconds": seconds}


def page(tmp_path: Path, prompts: int = 8, **changes: Any) -> str:
    arguments: dict[str, Any] = {
        "title": "Run",
        "subtitle": "",
        "before": [record(f"p{i:02}", 0.1) for i in range(prompts)],
        "after": [record(f"p{i:02}", 0.1 + 0.01 * i) for i in range(prompts)],
    }
    write_report(tmp_path / "report.html", **(arguments | changes))
    return (tmp_path / "report.html").read_text(encoding="utf-8")


class Tags(HTMLParser):
    """Start tags with their attributes, and the contents of scripts."""

    def __init__(self, html: str):
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "script":
            self.scripts.append(data)


def difference(value: float, low: float, high: float, n: int = 20, name: str = "goal") -> Difference:
    return Difference(name, 0.4, 0.4 + value, value, low, high, n, 2 * n)


def test_headline_says_what_happened() -> None:
    assert headline([difference(0.1, 0.05, 0.15)]) == (
        "The goal score rose: 0.400 to 0.500, a difference of +0.100 (95 % interval +0.050 to +0.150) "
        "over 20 held-out prompts."
    )
    assert headline([difference(-0.1, -0.15, -0.05)]).startswith("The goal score fell: ")
    assert headline([difference(0.1, -0.05, 0.25)]).startswith("No clear change in the goal score: ")
    assert headline([difference(0.1, 0.1, 0.1, n=1)], held_out=False).startswith("Too few prompts to tell whether ")
    assert headline([difference(0.1, 0.1, 0.1, n=1)], held_out=False).endswith("over 1 prompt.")
    assert headline([difference(0.1, 0.05, 0.15, name="reward")]).startswith("The reward rose: ")


def test_every_prompt_is_on_the_page_by_change_of_the_goal_score(tmp_path: Path) -> None:
    html = page(tmp_path, prompts=30)
    assert re.findall(r"Premise of (p\d\d)\.", html) == [f"p{i:02}" for i in range(29, -1, -1)]
    assert all(html.count(f'href="#{part}"') == html.count(f'id="{part}"') == 1 for part in ("top", "middle", "end"))
    opened = re.sub(r"<details>.*?</details>", "", html, flags=re.DOTALL)
    shown = [29, 28, 27, 15, 14, 13, 2, 1, 0]
    assert re.findall(r"Premise of (p\d\d)\.", opened) == [f"p{i:02}" for i in shown]


@pytest.mark.parametrize("prompts", [1, 12, 13])
def test_short_lists_are_whole_too(tmp_path: Path, prompts: int) -> None:
    assert len(re.findall(r"Premise of", page(tmp_path, prompts=prompts))) == prompts


def test_all_stories_of_a_prompt_are_there_and_the_change_is_that_of_the_means(tmp_path: Path) -> None:
    html = page(
        tmp_path,
        before=[record("a", 0.1, "First before."), record("a", 0.3, "Second before.")],
        after=[record("a", 0.9, "First after."), record("a", 0.5, "Second after.")],
    )
    assert all(
        f"<p>{text}</p>" in html for text in ("First before.", "Second before.", "First after.", "Second after.")
    )
    assert '<span class="change">goal +0.50</span>' in html
    assert "2 more stories for this prompt" in html


def test_turns_are_marked_and_speech_is_quoted_once(tmp_path: Path) -> None:
    html = page(tmp_path)
    assert '<p class="say"><span class="who">Mira</span>“Stay.”</p>' in html
    assert '<p class="do"><span class="who">Tom acts</span>Tom left.</p>' in html


def test_prompt_without_goal(tmp_path: Path) -> None:
    story = record("a", 0.1)
    del story["prompt"]["goal"]
    assert "Goal:" not in page(tmp_path, before=[story], after=[story])


@pytest.mark.parametrize("place", ["text", "actor", "premise", "goal", "labels", "score", "title", "setting"])
def test_nothing_a_user_wrote_becomes_markup(tmp_path: Path, place: str) -> None:
    def side(prompt: str, goal: float) -> dict[str, Any]:
        story = record(prompt, goal, score=EVIL if place == "score" else "goal")
        if place == "text":
            story["text"] = story["turns"][0]["text"] = story["turns"][1]["text"] = EVIL
        elif place == "actor":
            story["turns"][1]["actor"] = story["turns"][2]["actor"] = EVIL
        elif place in ("premise", "goal"):
            story["prompt"][place] = EVIL
        return story

    html = page(
        tmp_path,
        title=EVIL if place == "title" else "Run",
        subtitle=EVIL if place == "title" else "",
        before=[side(f"p{i}", 0.1) for i in range(7)],
        after=[side(f"p{i}", 0.2) for i in range(7)],
        labels=(EVIL, EVIL) if place == "labels" else ("one", "two"),
        metrics=[metric(0, EVIL if place == "score" else "goal")],
        settings={EVIL: {EVIL: EVIL}} if place == "setting" else {},
    )
    tags = Tags(html)
    assert [tag for tag, _ in tags.found].count("script") == 2  # plotly and ours
    assert not any(script.startswith("alert") for script in tags.scripts)
    assert not any(tag == "img" or any(name.startswith("on") for name in attrs) for tag, attrs in tags.found)
    assert "&lt;script&gt;alert(1)" in html


def test_the_page_loads_nothing(tmp_path: Path) -> None:
    tags = Tags(page(tmp_path, metrics=[metric(0), metric(1)], settings={"a": 1}))
    links = [attrs[key] for _, attrs in tags.found for key in ("src", "href", "srcset", "action") if key in attrs]
    assert all(link and link.startswith("#") for link in links)
    assert "link" not in [tag for tag, _ in tags.found]
    policies = [a["content"] for _, a in tags.found if a.get("http-equiv") == "Content-Security-Policy"]
    assert len(policies) == 1 and "default-src 'none'" in str(policies[0])
    assert "@import" not in (tmp_path / "report.html").read_text("utf-8").split("<script>")[0]


def test_without_metrics_there_is_no_script_and_nothing_is_called_held_out(tmp_path: Path) -> None:
    html = page(tmp_path)
    assert "script" not in [tag for tag, _ in Tags(html).found]
    assert "held-out" not in html
    assert "While tuning" not in html
    assert len(html) < 100_000


def test_with_metrics_plotly_is_inlined_once_and_every_score_has_a_curve(tmp_path: Path) -> None:
    html = page(tmp_path, metrics=[metric(i) for i in range(10)])
    assert html.count("plotly.js v") == 1
    titles = re.findall(r"<figcaption>(.*?)</figcaption>", html)
    assert [title.split(" (")[0] for title in titles] == [
        "Reward",
        "KL to the reference",
        "Score: goal",
        "Where the time went",
    ]
    assert titles[-1].endswith("(24.1 seconds a step)")


def test_settings_are_flattened(tmp_path: Path) -> None:
    assert "<td>reward.goal</td><td>1.5</td>" in page(tmp_path, settings={"steps": 3, "reward": {"goal": 1.5}})


def test_the_order_of_the_page(tmp_path: Path) -> None:
    html = page(tmp_path, metrics=[metric(0)], settings={"a": 1}).split("<body>")[-1]
    parts = [
        'class="headline"',
        '<table class="numbers">',
        "While tuning",
        "The stories, side by side",
        "Settings",
        "How the numbers",
    ]
    places = [html.index(part) for part in parts]
    assert places == sorted(places)


def test_a_failing_template_leaves_the_old_page_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = page(tmp_path)

    def fail(*_: Any) -> None:
        raise TemplateNotFound("report.html.j2")

    monkeypatch.setattr("storyrl.report.Environment.get_template", fail)
    with pytest.raises(TemplateNotFound):
        page(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text("utf-8") == old


@pytest.mark.parametrize("broken", ["premise", "turn"])
def test_records_that_cannot_be_shown_are_input_errors(tmp_path: Path, broken: str) -> None:
    story = record("a", 0.1)
    if broken == "premise":
        del story["prompt"]["premise"]
    else:
        del story["turns"][0]["text"]
    with pytest.raises(InputError, match="prompt 'a'"):
        page(tmp_path, before=[story], after=[record("a", 0.1)])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.slow
def test_in_a_browser_plots_stay_in_their_cells(tmp_path: Path, chromium: str, width: int) -> None:
    from playwright.sync_api import sync_playwright

    page(tmp_path, prompts=30, metrics=[metric(i) for i in range(10)])
    problems: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        view = browser.new_page(viewport={"width": width, "height": 900})
        view.on("pageerror", lambda error: problems.append(str(error)))
        view.on("console", lambda message: problems.append(message.text))
        view.on("request", lambda request: problems.append(request.url) if request.url[:4] == "http" else None)
        view.goto((tmp_path / "report.html").as_uri())
        view.wait_for_selector(".plot .main-svg")
        assert view.evaluate("document.scrollingElement.scrollWidth") <= width
        assert view.evaluate(
            "[...document.querySelectorAll('figure')].every(f => f.querySelector('.main-svg') && "
            "f.querySelector('.main-svg').getBoundingClientRect().width <= f.getBoundingClientRect().width + 1)"
        )
        browser.close()
    assert problems == []
