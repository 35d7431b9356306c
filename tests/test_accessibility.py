"""axe-core finds nothing serious or critical on any page of the studio: wide and narrow, light and dark.

The stand-in agent writes, so what is looked at is the page and not a model's words. What axe-core cannot see (keys,
what is read out and when) is tested beside each tab.
"""

import importlib.resources
import threading
from collections.abc import Sequence
from typing import Any, cast

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from rewards.taste import Taste
from storyrl.agent import Agent, Suggestion
from storyrl.files import write_json, write_jsonl
from storyrl.policies import TASTE, Policies
from storyrl.rewrite import FIT, Passage
from storyrl.store import OWNER, Answer, Store
from storyrl.story import Prompt, Story
from ui.app import launch
from ui.blind import PAIRS

from .conftest import word_tokenizer
from .studio_page import FakeAgent, add, free_port, press, room, side, start, suggest, turns, wait_for
from .test_tune_tab import _finished, _row
from .test_users import users
from .test_users_page import guarded, sign_in

__all__ = ["guarded", "users"]  # fixtures

pytestmark = pytest.mark.slow
_AXE = importlib.resources.files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8")
_LOOK = """async () => {
  for (const fold of document.querySelectorAll("details")) fold.open = true;
  await new Promise(requestAnimationFrame);
  for (const move of document.getAnimations()) if (move.effect.getTiming().iterations !== Infinity) move.finish();
  const { violations } = await axe.run({ resultTypes: ["violations"] });
  return violations.filter(({ impact }) => ["serious", "critical"].includes(impact)).flatMap(({ id, nodes }) =>
    nodes.map(({ target, any, all, none }) => [id, target.flat().join(" "), [...any, ...all, ...none][0].message]));
}"""


class Writer(FakeAgent):
    """Also has other words for a passage."""

    def rewrite(self, story: Story, where: Passage, versions: int, *_: Any) -> list[Suggestion]:
        turn, rows = story.turns[where.number], []
        for number in range(versions):
            text = f"{turn.text[: where.start]}version {number}{turn.text[where.end :]}"
            scores = {"goal": 0.5, "repetition": 0.0, "short": 0.0}
            reward = self.reward.reward(scores)
            other = turn.model_copy(update={"text": text})
            rows.append(Suggestion(other, text, {**scores, FIT: -0.1 * number}, {}, reward, 9, True))
        return rows


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Store]:
    """The address of a studio, and its store."""
    port, store = free_port(), Store(str(tmp_path_factory.mktemp("axe") / "studio.db"))
    args = (cast(Agent, Writer(word_tokenizer())), store, "127.0.0.1", port, False)
    threading.Thread(target=launch, args=args, daemon=True).start()
    wait_for(f"http://127.0.0.1:{port}")
    return f"http://127.0.0.1:{port}", store


@pytest.fixture
def page(context: BrowserContext) -> Page:
    context.add_init_script(_AXE)
    return context.new_page()


class Looks:
    """What axe-core found on a page at its stops, and in which widths and schemes."""

    def __init__(self, page: Page):
        self.page, self.found = page, dict[tuple[str, ...], list[str]]()

    def at(self, stop: str) -> None:
        """Look at the page as it is, with everything unfolded, in both widths and both schemes."""
        for width in (1280, 390):
            self.page.set_viewport_size({"width": width, "height": 900})
            for scheme in ("light", "dark"):
                self.page.emulate_media(color_scheme="dark" if scheme == "dark" else "light", reduced_motion="reduce")
                self.page.wait_for_function(
                    "(dark) => document.body.classList.contains('dark') === dark", arg=scheme == "dark"
                )
                for finding in self.page.evaluate(_LOOK):
                    self.found.setdefault((stop, *finding), []).append(f"{width} {scheme}")
        self.page.set_viewport_size({"width": 1280, "height": 900})

    @property
    def report(self) -> str:
        """A line a finding."""
        return "\n".join(f"{': '.join(finding)} ({', '.join(where)})" for finding, where in self.found.items())


@pytest.fixture
def looks(page: Page) -> Looks:
    return Looks(page)


def test_the_check_sees_defects(page: Page, looks: Looks) -> None:
    page.set_content(
        "<html lang=en><title>t</title><main><details><summary>More</summary><p style='color: #aaa'>pale</p></details>"
        "<button></button><input></main><script>matchMedia('(prefers-color-scheme: dark)').onchange = (event) =>"
        "document.body.classList.toggle('dark', event.matches)</script></html>"
    )
    looks.at("here")
    everywhere = ["1280 light", "1280 dark", "390 light", "390 dark"]
    found = {rule: (stop, where, widths) for (stop, rule, where, _), widths in looks.found.items()}
    assert found == {
        "button-name": ("here", "button", everywhere),
        "color-contrast": ("here", "p", everywhere),
        "label": ("here", "input", everywhere),
    }


def test_start(page: Page, studio: tuple[str, Store], looks: Looks) -> None:
    page.goto(studio[0])
    page.get_by_role("button", name="Memory and style").click()
    expect(page.get_by_label("Style")).to_be_visible()
    looks.at("start form")
    start(page, "The model writes slowly")
    press(page, "Suggest")
    expect(page.locator(".card.draft .words").first).to_have_text("Half a suggestion 0")
    looks.at("drafts")
    press(page, "Stop")
    page.locator("#pick-0").wait_for()
    assert not looks.found, looks.report


def test_desk(page: Page, studio: tuple[str, Store], looks: Looks) -> None:
    page.goto(studio[0])
    start(page)
    suggest(page)
    page.locator("#pick-1").click()
    expect(turns(page)).to_have_count(1)
    add(page, "They found the boat and did not forgive.")
    suggest(page)
    page.locator("#edit-0").click()
    expect(page.locator("#own-text textarea")).not_to_have_value("")
    press(page, "Add my turn")
    expect(turns(page)).to_have_count(3)
    suggest(page)
    suggest(page)
    looks.at("suggestions")
    turns(page).nth(1).locator("p").first.click()
    expect(page.get_by_label("Text (Ctrl+Enter saves it)")).to_be_visible()
    page.locator("#manuscript").get_by_role("button", name="Rewrite", exact=True).click()
    expect(page.locator("#passage form")).to_be_visible()
    looks.at("open block and the bar to rewrite it")
    page.locator("#passage").get_by_role("button", name="Rewrite").click()
    page.locator("#version-1").wait_for()
    looks.at("versions of a block")
    press(page, "Keep it as it is")
    turns(page).first.locator("p").first.click()
    turns(page).first.get_by_role("button", name="Branch from here").click()
    expect(turns(page)).to_have_count(1)
    add(page, "Another second turn.")
    for name, shown in (
        ("Goal", ".curve"),
        ("Map", ".map"),
        ("Memory", "#lore form"),
        ("Model", "#manner form"),
        ("Context", "#context .part"),
    ):
        side(page, name)
        if name == "Map":
            page.get_by_role("button", name="Compare the branch").first.click()
            page.locator(".sides article").first.wait_for()
        page.locator(shown).first.wait_for(state="attached")
        looks.at(name)
    assert not looks.found, looks.report


def test_library(page: Page, studio: tuple[str, Store], looks: Looks) -> None:
    mine = studio[1].for_owner(OWNER)
    for name in ("kept", "gone"):
        tree = mine.save_story(Story(id=name, prompt=Prompt(premise=f"A story that is {name}.")), title=name)
    mine.delete_story("gone", tree.version)
    page.goto(studio[0])
    room(page, "Library")
    page.locator(".deleted li").first.wait_for()
    looks.at("library")
    assert not looks.found, looks.report


def test_rate(page: Page, studio: tuple[str, Store], looks: Looks) -> None:
    page.goto(studio[0])
    start(page, "A premise to pick for")
    suggest(page)
    page.locator("#pick-0").click()
    room(page, "Rate")
    page.get_by_label("a prompt of my own").check()
    page.get_by_label("My premise").wait_for()
    press(page, "New pair")
    press(page, "A is better")
    expect(page.locator("#rate-status")).to_contain_text("answered 1 pair")
    page.locator("#answer-A").wait_for()
    looks.at("a pair")
    for name, shown in (("What the studio keeps", "#kept .kept li"), ("My answers", "#answers .kept li")):
        page.locator("#rate-rooms").get_by_role("tab", name=name, exact=True).click()
        page.locator(shown).first.wait_for()
        looks.at(name)
    assert not looks.found, looks.report


def test_tune(page: Page, studio: tuple[str, Store], looks: Looks) -> None:
    mine = studio[1].for_owner(OWNER)
    page.goto(studio[0])
    room(page, "Tune")
    expect(page.locator("#tune-status")).to_contain_text("Nothing has been tuned yet")
    page.locator("#tune-advanced").get_by_role("button", name="Advanced").click()
    page.get_by_label("Pull of your taste").first.wait_for()
    looks.at("nothing tuned yet")
    policies = Policies(mine, FakeAgent.policy_name)
    _tuned(policies)
    test = mine.add_blind_pairs(FakeAgent.policy_name, policies.known()[-1].name, _pairs())
    page.reload()
    room(page, "Tune")
    page.locator("#blind-answer-A").wait_for()
    looks.at("blind test")
    for pair in test.pairs:
        mine.answer_blind_pair(pair.id, Answer.A)
    page.reload()
    room(page, "Tune")
    page.locator("#blind-result .verdict").wait_for()
    looks.at("tuned and compared")
    mine.set_setting(TASTE, None)
    assert not looks.found, looks.report


def _tuned(policies: Policies) -> None:
    """A learned taste and a finished run."""
    folder = policies.home / "tastes" / "one"
    Taste.unknown().save(folder)
    card = {"choices": 3, "created": "", "leanings": ["more questions"], "agrees": None, "shipped_agrees": None}
    write_json(folder / "about.json", {"owner": OWNER, "card": card})
    policies.store.set_setting(TASTE, "one")
    job = _finished(policies, "tuned", OWNER, base=FakeAgent.policy_name)
    write_jsonl(job.run / "metrics.jsonl", [{**_row(n, n / 3, 0.2), "seconds": {}} for n in range(3)])
    write_jsonl(job.run / "alarms.jsonl", [{"step": 2, "alarm": "repetition", "message": "reward rises"}])
    for when in ("before", "after"):
        story = {"prompt": {"id": "h", "premise": "A premise."}, "text": f"Written {when}."}
        write_jsonl(job.run / f"heldout_{when}.jsonl", [story])


def _pairs() -> Sequence[tuple[Prompt, str, str]]:
    return [(Prompt(premise=f"Premise {n}.", goal="An end."), "Before.\n\nMore.", "After.") for n in range(PAIRS)]


def test_sign_in(page: Page, guarded: tuple[str, Store], looks: Looks) -> None:
    page.goto(guarded[0])
    page.get_by_label("username").wait_for()
    looks.at("login")
    sign_in(page, "Ann", "wrong password")
    page.get_by_text("Incorrect").wait_for()
    looks.at("wrong password")
    sign_in(page, "Ann")
    page.locator("#signed-in b").wait_for()
    looks.at("signed in")
    assert not looks.found, looks.report
