"""The Tune tab without its page: taste and its honest figures, policies by writer, curves, the blind test."""

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from prompts.readers import read_prompts
from rewards.base import StoryText
from rewards.composite import Composite, Term
from rewards.guards import Repetition
from rewards.preference import Preference
from rewards.taste import Choice, Taste, prior_deviation
from storyrl import taste
from storyrl.agent import Agent
from storyrl.config import TuneConfig, to_toml
from storyrl.errors import InputError
from storyrl.files import write_jsonl
from storyrl.job import Job
from storyrl.policies import TASTE, Policies
from storyrl.policy import Candidate
from storyrl.share import Share
from storyrl.store import Answer, Comparison, Store
from storyrl.story import Kind, Prompt, Story, Turn
from ui.agents import OwnAgent
from ui.blind import PAIRS, BlindStep, next_turns, verdict
from ui.curves import before_and_after, charts
from ui.job import left
from ui.tune import counts, taste_card
from ui.users import writer

_ROOT = Path(__file__).parent.parent


# --- agreement and leanings -------------------------------------------------------------------------------------------


class _Numbers:
    """Stories are numbers: "3 0.5" has measure 3 at 0.5 deviations; the shipped model likes none of them more."""

    def features(self, stories: Sequence[StoryText]) -> torch.Tensor:
        rows = torch.zeros(len(stories), len(prior_deviation()))
        for row, story in zip(rows, stories, strict=True):
            place, value = story.text.split()
            row[int(place)] = float(value)
        return rows

    def scores(self, stories: Sequence[StoryText]) -> torch.Tensor:
        return torch.zeros(len(stories))


@pytest.fixture
def numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taste, "taste_features", _Numbers().features)
    monkeypatch.setattr(taste, "load_shipped", lambda _: _Numbers())


def _choice(prompt: int, first: str, second: str, first_better: float, weight: float = 1.0) -> Choice:
    premise = f"Premise {prompt}."
    return Choice(StoryText(first, "", premise), StoryText(second, "", premise), first_better, weight)


@pytest.mark.usefixtures("numbers")
def test_agreement_of_a_clear_taste() -> None:
    """All prefer more of measure 3, so each part is foretold from the others; without a taste no first story wins."""
    choices = [_choice(n, f"3 {1 if n % 2 else -1}", "3 0", float(n % 2)) for n in range(12)]
    found = taste.agreement(choices)
    assert found == taste.Agreement(Share(12, 12), Share(6, 12))


@pytest.mark.usefixtures("numbers")
def test_agreement_does_not_ask_about_what_it_learned_from() -> None:
    """Each prompt has a measure of its own and two equal answers; nothing can be known of it from the other prompts,
    so no first story is put above its second. With a prompt's answers in two parts all would be foretold."""
    choices = [_choice(n, f"{n} 1", f"{n} 0", float(n % 3 == 0)) for n in range(12) for _ in range(2)]
    found = taste.agreement(choices)
    assert found
    assert found.learned == Share(sum(choice.first_better == 0 for choice in choices), 24)


@pytest.mark.usefixtures("numbers")
def test_too_few_answers_tell_nothing() -> None:
    clear = [_choice(n, "3 1", "3 0", 1.0) for n in range(9)]
    weak = [_choice(n, "3 1", "3 0", 1.0, 0.3) for n in range(20)]
    ties = [_choice(n, "3 1", "3 0", 0.5, 1.0) for n in range(20)]
    assert taste.agreement([*clear, *weak, *ties]) is None
    assert taste.agreement([]) is None
    assert taste.agreement([*clear, _choice(9, "3 1", "3 0", 1.0)]) is not None
    assert taste.agreement([_choice(0, f"3 {n}", "3 0", 1.0) for n in range(1, 13)]) is None  # one prompt only


def test_leanings_name_the_strongest_weights() -> None:
    learned = Taste.unknown()
    for name, weight in {"speech": 0.2, "word length": -0.3, "bright end": 0.005, "commas": -0.1}.items():
        learned.delta[taste.MEASURES.index(name)] = weight
    learned.delta[len(taste.MEASURES)] = 9.0  # a direction of meaning has no name
    assert taste.leanings(learned) == ["shorter words", "more of the story told in speech", "fewer commas"]
    assert taste.leanings(learned, most=1) == ["shorter words"]
    assert taste.leanings(Taste.unknown()) == []


def test_nothing_to_learn_from(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no comparisons yet"):
        Policies(Store(str(tmp_path / "s.db")), "storyteller").learn_taste()
    assert [path.name for path in tmp_path.iterdir() if "models" in path.name] == []


# --- policies ---------------------------------------------------------------------------------------------------------


def _finished(policies: Policies, name: str, owner: str, base: str = "storyteller", policy: Path | None = None) -> Job:
    job = Job(policies.runs / name)
    job.run.mkdir(parents=True)
    (job.folder / "job.json").write_text(
        json.dumps({"owner": owner, "created": f"2026-01-02T03:04:0{len(name)}+00:00"})
    )
    (job.run / "config.toml").write_text(to_toml(TuneConfig(steps=1, policy=base)))
    write_jsonl(job.run / "metrics.jsonl", [{"step": 0, "reward": 0.5, "kl": 1.25, "scores": {}, "seconds": {}}])
    for when in ("before", "after"):
        write_jsonl(job.run / f"heldout_{when}.jsonl", [])
    if policy:
        policy.rename(job.run / "policy")
    return job


@pytest.fixture
def policies(tmp_path: Path) -> Policies:
    """As whoever asks sees them."""
    return Policies(Store(str(tmp_path / "s.db")).for_owner(writer.get), "storyteller")


@contextlib.contextmanager
def signed_in(name: str) -> Iterator[None]:
    token = writer.set(name)
    yield
    writer.reset(token)


def test_where_runs_lie(tmp_path: Path, policies: Policies) -> None:
    assert policies.home == tmp_path / "s-models"
    other = SimpleNamespace(url="postgresql://mira:secret@db/stories", owner=None)
    home = Policies(other, "storyteller").home  # type: ignore[arg-type]
    assert re.fullmatch("models-[0-9a-f]{12}", home.name)


def test_everybody_has_their_own_runs(policies: Policies) -> None:
    _finished(policies, "m", "mira")
    _finished(policies, "tt", "tom", base=str(policies.runs / "m" / "run"))
    with signed_in("mira"):
        assert [known.name for known in policies.known()] == ["storyteller", "smollm2", "run:m"]
        policies.use("run:m")
        assert policies.in_use == "run:m"
        for name in ("run:tt", "run:../runs/tt", "../../etc/passwd", str(policies.runs / "tt" / "run"), ""):
            with pytest.raises(InputError, match="you have none of this name"):
                policies.use(name)
        assert policies.in_use == "run:m"
        assert policies.name_of(str(policies.runs / "m" / "run")) == "run:m"
    with signed_in("tom"):
        assert policies.in_use == "storyteller"
        assert [known.name for known in policies.known()][2:] == ["run:tt"]


def test_a_run_that_is_gone_or_broken_is_not_offered(policies: Policies) -> None:
    job = _finished(policies, "m", "local")
    policies.use("run:m")
    (job.run / "config.toml").write_text("stepz = 3\n")
    assert policies.in_use == "storyteller"
    (job.run / "config.toml").write_text(to_toml(TuneConfig()))
    assert policies.in_use == "run:m"
    (job.run / "heldout_after.jsonl").unlink()
    assert [known.name for known in policies.known()] == ["storyteller", "smollm2"]


@pytest.fixture
def default() -> Any:
    """An agent whose policy only has a place."""
    terms = [Term(Preference(), 0.5, 0.0, 1.0), Term(Repetition(), -20.0, 0.0, 1.0)]
    policy: Any = SimpleNamespace(name="storyteller", model=SimpleNamespace(device="cpu"))
    return Agent(policy, Composite(terms))


def test_each_writer_has_the_policy_they_chose(policies: Policies, default: Any, tiny_folder: Any) -> None:
    _finished(policies, "m", "mira", policy=tiny_folder())
    own = OwnAgent(default, policies)
    with signed_in("mira"):
        assert own.policy is default.policy
        policies.use("run:m")
        assert own.policy_name == "run:m"
        mine = own.policy
        assert own.policy is mine  # loaded once
        policies.use("storyteller")
        assert own.policy is default.policy
    with signed_in("tom"):
        assert own.policy is default.policy
    assert own.reward is default.reward


def test_three_policies_stay_loaded(policies: Policies, default: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []
    own = OwnAgent(default, policies)
    monkeypatch.setattr(own, "_load", lambda name: loaded.append(name) or name)
    for name in ("a", "b", "c", "a", "d", "a", "b"):
        assert own.named(name) == name
    assert loaded == ["a", "b", "c", "d", "b"]  # b was used the longest ago when d came


def test_the_taste_is_the_writers_own(policies: Policies, default: Any) -> None:
    folder = policies.home / "tastes" / "one"
    learned = Taste.unknown()
    learned.delta[0] = 0.2
    learned.save(folder)
    card = {"choices": 3, "created": "", "leanings": ["more questions"], "agrees": None, "shipped_agrees": None}
    (folder / "about.json").write_text(json.dumps({"owner": "mira", "card": card}))
    own = OwnAgent(default, policies)
    with signed_in("mira"):
        policies.store.set_setting(TASTE, "one")
        terms: Any = own.reward.terms
        assert float(terms["preference"].scorer.taste.delta[0]) == pytest.approx(0.2)
        assert terms["repetition"] is default.reward.terms["repetition"]
        assert (terms["preference"].weight, policies.taste and policies.taste.choices) == (0.5, 3)
    with signed_in("tom"):
        policies.store.set_setting(TASTE, "one")
        assert policies.taste is None
        policies.forget_taste()  # of his there is none; hers stays
    with signed_in("mira"):
        policies.forget_taste()
        assert not folder.exists()
        assert own.reward is default.reward


@pytest.mark.parametrize("name", ["../../secret", "/etc", "..", ""])
def test_a_taste_is_no_path(policies: Policies, name: str) -> None:
    policies.store.set_setting(TASTE, name)
    assert policies.taste_folder is None


# --- what is shown ----------------------------------------------------------------------------------------------------


def test_verdicts() -> None:
    assert verdict(Share(9, 10)).startswith("Better: you preferred the tuned model in 9 of 10 pairs (90%; ties")
    assert "between 60% and 98%" in verdict(Share(9, 10))
    assert verdict(Share(1, 10)).startswith("Worse: ")
    assert verdict(Share(7.5, 10)).startswith("Cannot tell yet: you preferred the tuned model in 7.5 of 10")
    assert "go on with 10 more" in verdict(Share(8, 10))  # 0.490 to 0.943


def test_time_left_in_words() -> None:
    assert [left(s) for s in (None, 1, 42, 600)] == [
        "",
        ", at most 5 s left",
        ", at most 40 s left",
        ", at most 10 min left",
    ]


def _row(step: int, reward: float, goal: float) -> dict[str, Any]:
    scores = {"goal": {"mean": goal}, "repetition": {"mean": 0.1}, "<i>": {"mean": 1.0}}
    return {"step": step, "reward": reward, "kl": 2.0 * step, "scores": scores}


def test_curves_are_drawn_to_scale_and_escaped() -> None:
    page = charts([_row(0, -1.0, 0.2), _row(1, 0.0, 0.4), _row(2, 1.0, 0.3)], steps=5, kl_budget=3.0)
    # 320 wide for 4 steps, 90 high: -1 is at the bottom, 0 half way, 1 at the top
    assert 'points="0.0,90.0 80.0,45.0 160.0,0.0"' in page
    assert "All in all, after 3 of 5 steps: reward from -1.00 to 1.00." in page
    assert 'class="limit" x1="0" x2="320" y1="22.5" y2="22.5"' in page  # 3 of 0 to 4 nats
    assert "repetition 10%" in page
    assert "&lt;i&gt;" in page
    assert "<i>" not in page


def test_one_step_is_a_point_and_none_is_nothing() -> None:
    assert charts([], 5, 0.0) == ""
    assert 'points="0.0,45.0 0.0,45.0"' in charts([_row(0, -1.0, 0.2)], steps=1, kl_budget=0.0)


def test_stories_before_and_after_are_text() -> None:
    records = [{"prompt": {"id": "h", "premise": "<b>A</b>"}, "text": "<script>x</script>\n\nTwo."}]
    page = before_and_after(records, records)
    assert "&lt;script&gt;" in page
    assert "<script" not in page
    assert page.count("<p>Two.</p>") == 2
    assert before_and_after([], []) == ""


def test_counts_and_taste_in_words(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "s.db"))
    for answer in (Answer.A, Answer.B, Answer.TIE, Answer.BOTH_BAD):
        store.add_comparison(Comparison(Prompt(premise="P."), "one", "two", answer))
    told = counts(store)
    assert "<b>4</b> comparisons" in told
    assert "<b>2</b> of them without a winner" in told
    assert "weak preferences" not in told
    words = taste_card(_card(Share(31, 40), Share(24, 40)))
    assert "foretells 31 of 40, 78% (between 62% and 88%, with 95 % confidence)" in words
    assert "Without your taste it is 24 of 40" in words
    assert "guessing" not in words
    assert "may still be guessing" in taste_card(_card(Share(12, 21), Share(10, 21)))
    assert "too few to say" in taste_card(_card(None, None))


def _card(agrees: Share | None, shipped: Share | None) -> Any:
    from storyrl.policies import TasteCard

    return TasteCard(40, "", ["more questions"], agrees, shipped)


# --- the blind test ---------------------------------------------------------------------------------------------------


class _Numbered:
    """A policy that writes one turn for each story but the first."""

    def write(self, stories: Sequence[Story], candidates: int, *_: Any, may_end: bool) -> list[list[Candidate]]:
        assert (candidates, may_end) == (1, False)
        turns = [Turn(kind=Kind.NARRATE, text=f"Turn of {story.id}.") for story in stories]
        return [[Candidate(turn if number else None, 3, -1.0, True)] for number, turn in enumerate(turns)]


def test_a_story_goes_on_unless_the_policy_gives_no_turn() -> None:
    stories = [Story(id=name, prompt=Prompt(premise="P.")) for name in "ab"]
    policy: Any = _Numbered()
    assert [story.text for story in next_turns(policy, stories)] == ["", "Turn of b."]


def test_prompts_that_were_not_asked_about_come_first(policies: Policies) -> None:
    step: Any = BlindStep.__new__(BlindStep)
    step.policies = policies
    everything = read_prompts("starter:heldout")
    rest = everything[: PAIRS - 2]
    asked: Any = SimpleNamespace(pairs=[SimpleNamespace(prompt=p) for p in everything if p not in rest])
    chosen = step._prompts("heldout", asked)
    assert len(chosen) == PAIRS
    assert all(prompt in chosen for prompt in rest)
    with pytest.raises(InputError, match="no story yet"):
        step._prompts("mine", None)
    policies.store.save_story(Story(id="s", prompt=Prompt(premise="Mine.", goal="One happens.\nTwo happens.")))
    mine = step._prompts("mine", None)
    assert [(prompt.premise, prompt.goal) for prompt in mine] == [("Mine.", "One happens.")] * PAIRS
