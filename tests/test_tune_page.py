"""The Tune tab in a browser, over the real server and model: learn, tune, compare blind, keep."""

import json
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from storyrl.job import State
from storyrl.policies import Policies
from storyrl.share import Share
from storyrl.store import Answer, Comparison, Store
from storyrl.story import Prompt, Turn, prose
from ui.blind import PAIRS

from .studio_page import Server, press, room, start, suggest

_ROOT = Path(__file__).parent.parent


def _answer(store: Store, count: int = 24) -> None:
    """Answers of a writer who likes dialogue; one in eight is a tie."""
    lines = (_ROOT / "prompts" / "stories" / "authored.jsonl").read_text("utf-8").splitlines()[: 2 * count]
    rows = [json.loads(line) for line in lines]
    for number, (first, second) in enumerate(zip(rows[::2], rows[1::2], strict=True)):
        texts = [prose([Turn(**turn) for turn in row["turns"]]) for row in (first, second)]
        talks = [text.count('"') / len(text) for text in texts]
        answer = Answer.TIE if number % 8 == 7 else Answer.A if talks[0] > talks[1] else Answer.B
        store.add_comparison(Comparison(Prompt(premise=first["premise"]), texts[0], texts[1], answer))


def _fill(page: Page, name: str, value: int) -> None:
    field = page.locator(f"#tune-{name} input[type=number]")
    field.fill(str(value))
    field.press("Tab")


def _status(page: Page) -> Any:
    return page.locator("#tune-status")


@pytest.mark.slow
def test_learn_tune_compare_blind_and_keep(context: BrowserContext, tmp_path: Path) -> None:
    store = Store(str(tmp_path / "studio.db"))
    _answer(store)
    server = Server(tmp_path)
    policies = Policies(store, "storyteller")
    try:
        page = context.new_page()
        expect.set_options(timeout=240_000)
        page.goto(server.url)
        room(page, "Tune")
        _learn(page)
        _tune(page)
        server.restart(page)  # the tuning goes on without it
        assert policies.jobs[0].is_running
        room(page, "Tune")
        expect(_status(page)).to_contain_text("Tuned for 2 steps", timeout=900_000)  # others go before it
        assert policies.jobs[0].look().state is State.FINISHED
        assert len(policies.jobs[0].look().rows) == 2
        expect(page.locator("#tune-charts figure")).to_have_count(5)
        _compare(page, store)
        _keep(page)
        assert policies.in_use == policies.known()[-1].name
        page.set_viewport_size({"width": 390, "height": 844})
        page.wait_for_timeout(500)
        assert page.evaluate("document.scrollingElement.scrollWidth - window.innerWidth") <= 0
        _write(page)
    finally:
        for job in policies.jobs:
            job.stop()
        server.stop()


def _learn(page: Page) -> None:
    expect(page.locator("#told")).to_contain_text("24 comparisons")
    expect(page.locator("#told")).to_contain_text("3 of them without a winner")
    press(page, "Learn my taste")
    expect(page.locator("#told")).to_contain_text("Learned from 24 choices")
    expect(page.locator("#told")).to_contain_text("of your answers that it had not seen it foretells")
    press(page, "Forget it")
    expect(page.locator("#told")).not_to_contain_text("Learned from")
    press(page, "Learn my taste")
    expect(page.locator("#told")).to_contain_text("Learned from 24 choices")


def _tune(page: Page) -> None:
    press(page, "Tune it")
    expect(_status(page)).to_contain_text("Loading the model")
    press(page, "Stop")
    expect(_status(page)).to_contain_text("Stopped after step 0 of 24")
    page.locator("#tune-advanced").get_by_role("button", name="Advanced").click()
    page.wait_for_timeout(1500)  # a field that is filled the moment it appears may be set to its usual value after that
    sizes = {"prompts_per_step": 2, "samples_per_prompt": 2, "max_tokens": 16, "heldout": 2, "steps": 2}
    for name, value in sizes.items():
        _fill(page, name, value)
    for name, value in sizes.items():
        expect(page.locator(f"#tune-{name} input[type=number]")).to_have_value(str(value))
    press(page, "Tune it")
    expect(page.locator("#tune-stop")).to_be_visible()
    expect(page.locator("#tune-start")).to_be_hidden()


def _compare(page: Page, store: Store) -> None:
    """Ten pairs: nothing says which is which; five answers, a reload, and five more."""
    press(page, f"Write {PAIRS} pairs")
    expect(page.locator("#blind-status")).to_contain_text("Pair 1 of 10")
    [test] = store.blind_tests()
    assert sorted(pair.after_is_a for pair in test.pairs) == [False] * 5 + [True] * 5
    for number, pair in enumerate(test.pairs):
        if number == 5:
            page.reload()
            room(page, "Tune")
        expect(page.locator("#blind-status")).to_contain_text(f"Pair {number + 1} of 10")
        expect(page.locator("#blind-result")).to_have_text("")
        for letter, text in zip("ab", pair.texts, strict=True):
            shown = page.locator(f"#blind-{letter} article")
            expect(shown.locator("p").first).to_have_text(text.split("\n\n")[0])
            assert shown.inner_text().split() == [letter.upper(), *text.split()]
        looks = [page.locator(f"#blind-{letter} article").inner_html().split("<p>")[0] for letter in "ab"]
        assert looks[0].replace("A", "_") == looks[1].replace("B", "_")
        if number == 1:
            press(page, "About the same")
            expect(page.locator("#blind-status")).to_contain_text("Pair 3 of 10")
            page.locator("#blind-undo").click()
            expect(page.locator("#blind-status")).to_contain_text("Pair 2 of 10")
            expect(page.locator("#blind-undo")).to_be_disabled()
        press(page, "A is better" if pair.after_is_a else "B is better")
    expect(page.locator("#blind-result")).to_contain_text(
        "Better: you preferred the tuned model in 10 of 10 pairs (100%; ties count half), and the true share lies "
        "between 72% and 100%"
    )
    assert store.blind_tests()[0].result == Share(10, 10)


def _keep(page: Page) -> None:
    rows = page.locator(".policies li")
    expect(rows.first).to_contain_text("in use")
    press(page, "Roll back: write with the one before")
    expect(page.locator("#blind-status")).to_contain_text("from before the tuning writes")
    press(page, "Keep: write with the tuned model")
    expect(rows.last).to_contain_text("in use")
    expect(rows.last).to_contain_text("preferred to storyteller in 10 of 10 pairs (95 %: 72% to 100%)")
    expect(rows.last).to_contain_text("2 steps, from 8 stories for the starter prompts")
    rows.first.get_by_role("button", name="Use").click()
    expect(rows.first).to_contain_text("in use")
    rows.last.get_by_role("button", name="Use").click()
    expect(rows.last).to_contain_text("in use")


def _write(page: Page) -> None:
    """The next suggestion comes from the tuned policy, which writes as well as any."""
    room(page, "Write")
    start(page)
    suggest(page)
    assert page.locator(".card .words").first.inner_text().strip()
