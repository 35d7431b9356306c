"""Comparing stories: pairing by prompt, plain measures, and the bootstrap against cases worked out by hand."""

import math
from typing import Any

import numpy as np
import pytest

from storyrl.errors import InputError
from storyrl.evaluate import compare, mean_interval


def record(prompt: str, goal: float, text: str = "The rain stopped.", **changes: Any) -> dict[str, Any]:
    return {
        "id": f"{prompt}-0",
        "prompt": {"id": prompt, "premise": "A boat.", "goal": "It sinks.", "characters": ["Mira"]},
        "turns": [{"kind": "narrate", "actor": None, "text": text}],
        "text": text,
        "scores": {"goal": goal},
        "reward": 2 * goal,
        "policy": "p",
        "seed": 0,
        "tokens": 5,
    } | changes


def test_interval_of_equal_values_is_the_value() -> None:
    assert mean_interval([0.25] * 7) == (0.25, 0.25, 0.25)


def test_interval_of_two_values_is_their_range() -> None:
    # The resampled mean is 0, 1/2 or 1 with probabilities 1/4, 1/2, 1/4: both 2.5 % tails lie in the outer values.
    assert mean_interval([0.0, 1.0]) == (0.5, 0.0, 1.0)


def test_interval_of_coin_flips_follows_the_binomial() -> None:
    # 40 zeros and 60 ones: the resampled sum is Binomial(100, 0.6), with quantiles 50 (2.5 %) and 69 or 70 (97.5 %).
    mean, low, high = mean_interval([0.0] * 40 + [1.0] * 60)
    assert mean == pytest.approx(0.6)
    assert low == pytest.approx(0.50, abs=0.0101)
    assert high == pytest.approx(0.695, abs=0.0101)


def test_interval_of_normal_values_is_close_to_the_closed_form() -> None:
    values = np.random.default_rng(1).normal(size=400)
    half = 1.96 * values.std() / math.sqrt(400)
    mean, low, high = mean_interval(values)
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=0.05 * half)


def test_interval_is_reproducible_also_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    values = list(np.random.default_rng(2).normal(size=30))
    whole = mean_interval(values)
    monkeypatch.setattr("storyrl.evaluate._DRAWS_AT_ONCE", 30 * 3001)  # leaves a last chunk that is not full
    assert mean_interval(values) == whole
    assert mean_interval(values, seed=1) != whole


def test_no_values_are_an_error() -> None:
    with pytest.raises(InputError, match="no values"):
        mean_interval([])


def test_the_interval_covers_the_truth_about_as_often_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storyrl.evaluate._RESAMPLES", 1000)
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(200):
        _, low, high = mean_interval(rng.normal(0.3, size=60))
        hits += low <= 0.3 <= high
    assert 180 <= hits <= 198


def test_stories_are_paired_by_prompt_and_averaged_first() -> None:
    before = [record("a", 0.0), record("a", 0.2), record("b", 0.5), record("only before", 9.0)]
    after = [record("only after", -9.0), record("b", 0.6), record("a", 0.3), record("a", 0.5)]
    goal = compare(before, after)[0]
    assert (goal.name, goal.n, goal.n_stories) == ("goal", 2, 6)
    assert (goal.before, goal.after) == pytest.approx((0.3, 0.5))
    assert (goal.difference, goal.low, goal.high) == pytest.approx((0.2, 0.1, 0.3))  # 0.3 for a, 0.1 for b


def test_the_order_of_the_records_does_not_matter_to_the_means() -> None:
    before, after = ([record(str(i), i * step) for i in range(8)] for step in (0.1, 0.2))
    first, second = compare(before, after)[0], compare(before[::-1], after)[0]
    assert (first.before, first.after, first.difference) == pytest.approx((0.35, 0.7, 0.35))
    assert (second.before, second.after, second.difference) == pytest.approx((0.35, 0.7, 0.35))


def test_plain_measures() -> None:
    turns = [
        {"kind": "say", "actor": "Mira", "text": "x"},
        {"kind": "do", "actor": "Mira", "text": "y"},
        {"kind": "say", "actor": "Tom", "text": "z"},
        {"kind": "narrate", "actor": None, "text": "z"},
    ]
    before = [record("a", 0.0, text="one two")]
    after = [record("a", 0.0, text="a b a b a b", turns=turns)]  # trigrams aba bab aba bab: 2 of 4 are distinct
    found = {d.name: (d.before, d.after) for d in compare(before, after)}
    assert found["words"] == (2, 6)
    assert found["turns"] == (1, 4)
    assert found["say_share"] == (0, 0.5)
    assert found["distinct_3"] == (1, 0.5)


def test_names_choose_and_order_the_measures() -> None:
    stories = [record("a", 0.1)]
    assert [d.name for d in compare(stories, stories)] == [
        "goal",
        "reward",
        "words",
        "turns",
        "say_share",
        "distinct_3",
    ]
    assert [d.name for d in compare(stories, stories, ["words", "goal"])] == ["words", "goal"]
    with pytest.raises(InputError, match=r"'gaol'.*did you mean 'goal'"):
        compare(stories, stories, ["gaol"])


def test_a_score_of_one_side_only_is_left_out() -> None:
    extra = [record("a", 0.1, scores={"goal": 0.1, "taste": 1.0})]
    assert "taste" not in [d.name for d in compare(extra, [record("a", 0.1)])]


def test_few_prompts_never_show_a_clear_change() -> None:
    def change(prompts: int) -> bool:
        names = [str(i) for i in range(prompts)]
        return compare([record(n, 0.1) for n in names], [record(n, 0.9) for n in names])[0].is_clear

    assert not change(1)
    assert not change(5)
    assert change(6)


def test_line_says_when_nothing_is_clear() -> None:
    same = [record(str(i), 0.5) for i in range(8)]
    assert "no clear change" in compare(same, same)[0].line()


def test_no_common_prompt_is_an_error() -> None:
    for before, after in (([record("a", 0.1)], [record("b", 0.1)]), ([], [])):
        with pytest.raises(InputError, match="no prompt in common"):
            compare(before, after)


@pytest.mark.parametrize("field", ["prompt", "turns", "text", "scores", "reward"])
def test_a_missing_field_is_named(field: str) -> None:
    broken = record("a", 0.1)
    del broken[field]
    with pytest.raises(InputError, match=f"story 2: the field '{field}' is missing"):
        compare([record("a", 0.1), broken], [record("a", 0.1)])


@pytest.mark.parametrize(
    "changes",
    [
        {"scores": {"goal": None}},
        {"scores": {"goal": math.nan}},
        {"scores": {}},
        {"scores": 3},
        {"reward": "high"},
        {"reward": True},
        {"text": None},
        {"turns": 5},
        {"turns": ["He left."]},
        {"prompt": "a"},
        {"prompt": {"id": ["a"]}},
    ],
)
def test_a_wrong_field_is_an_input_error(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="story 2: "):
        compare([record("a", 0.1), record("a", 0.1) | changes], [record("a", 0.1)])
