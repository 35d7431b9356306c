"""Scorers on the real encoder, the composite, and the Bradley-Terry fit."""

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from rewards import composite
from rewards.base import Scorer, StoryText
from rewards.encoder import WIDTH, mean_word_vectors
from rewards.guards import GUARDS, AssistantTalk, Copying, Echo, Format, Premature, Repetition, TooShort
from rewards.preference import Preference, fit, load_shipped, shipped_weights
from rewards.preference_data import long_stories
from rewards.style import NAMES
from storyrl.errors import InputError
from storyrl.files import read_jsonl
from storyrl.sft import read_stories, shipped_stories
from tests.bench.attack_figures import policy_stories, written_stories

_NEAR = StoryText(
    'He stood in the rain. "Come in," she said. At last she forgave her brother.', "Mira forgives her brother."
)
_FAR = StoryText("The train left at nine. Nobody was on it. The station was shut.", "Mira forgives her brother.")


def test_scores_depend_neither_on_the_batch_nor_on_its_order() -> None:
    stories = [_NEAR, _FAR, StoryText("One. " * 30 + "Two is here.", "A goal."), StoryText("Short.", "Mira leaves.")]
    shipped = composite.build({"shaping": 1.0, "verbs": 1.0})
    together = shipped.score(stories)
    backwards = shipped.score(stories[::-1])[::-1]
    for story, expected, other in zip(stories, together, backwards, strict=True):
        alone = shipped.score([story])[0]
        for name in expected.scores:
            assert alone.scores[name] == pytest.approx(expected.scores[name], abs=1e-4)
            assert other.scores[name] == pytest.approx(expected.scores[name], abs=1e-4)


def test_repetition_by_hand() -> None:
    assert Repetition().score([StoryText("a b c d"), StoryText("a b c. a b c."), StoryText("")]) == [0.0, 0.5, 0.0]


def score(guard: type[Scorer], text: str, goal: str = "", premise: str = "") -> float:
    return guard().score([StoryText(text, goal, premise)])[0]


def test_sentences_said_again_in_nearly_the_same_words_are_repetition() -> None:
    assert score(Repetition, "He had a red jar. Then he had a red jar. It rained.") == pytest.approx(1 / 3)


def test_premature_by_hand() -> None:
    goal = "Mira forgives her brother."  # content words: mira, forgi, broth
    late = "It rained. The road was long. They walked. Then Mira forgave him. Mira's brother was forgiven."
    assert score(Premature, late, goal) == 0.0
    early = "Mira forgives her brother. It rained. The road was long. They walked on. He sang. She slept."
    assert score(Premature, early, goal) == 1.0
    assert score(Premature, early, "") == 0.0


def test_format_by_hand() -> None:
    assert score(Format, '"Come in," said Mira.\n\nThe rain had stopped.\n\nThen he') == 0.0
    assert score(Format, "[say Mira] Come in.\n\nThe rain had stopped.\n\nHe took the\n\nShe left.") == 0.5
    assert score(Format, " ") == 1.0


def test_assistant_talk_by_hand() -> None:
    assert score(AssistantTalk, "Sure! Here is a story about a fox. The fox ran. I hope this helps!") == 0.5
    assert score(AssistantTalk, '"Tell me a story," said Ann. He was certainly late. "Sure," she said.') == 0.0


def test_praise_and_coaching_by_hand() -> None:
    assert score(AssistantTalk, "The theme is loss. She wept. Some tips: use rain. What an unforgettable end!") == 0.75
    assert score(AssistantTalk, "There was a great crowd. I wanted to go. The best story won. Consider it done.") == 0.0


def test_echo_by_hand() -> None:
    premise, goal = "An old sailor has lost his ship.", "The sailor finds a new ship."
    given = ["old", "sailor", "lost", "ship", "finds", "new"]
    other = [f"word{chr(97 + n)}" for n in range(3)] * 9  # one stem, 27 words
    assert score(Echo, " ".join(given * 5), goal, premise) == 1.0
    assert score(Echo, " ".join(given * 5 + ["rain"] * 10), goal, premise) == pytest.approx((30 / 40 - 0.45) / 0.55)
    assert score(Echo, " ".join(given * 3 + other), goal, premise) == 0.0
    assert score(Echo, "The old sailor found a new ship.", goal, premise) == 0.0, "too short to tell"


def test_a_retold_premise_by_hand() -> None:
    words = [f"{chr(97 + n)}word" for n in range(26)]  # as many stems
    premise, other = " ".join(words[:20]), words[20:] * 20

    def story(given: int, length: int) -> str:
        return " ".join(words[:given] + other[: length - given])

    assert score(Echo, story(20, 60), "Aim.", premise) == 1.0
    assert score(Echo, story(16, 60), "Aim.", premise) == pytest.approx((16 / 20 - 0.57) / 0.43)
    assert score(Echo, story(20, 80), "Aim.", premise) == pytest.approx((60 / 80 - 0.57) / 0.43), "it goes on"
    assert score(Echo, story(20, 106), "Aim.", premise) == 0.0
    assert score(Echo, story(11, 60), "Aim.", premise) == 0.0
    assert score(Echo, story(5, 60), "Aim.", " ".join(words[:5])) == 0.0, "too short a premise to tell"


def test_a_goal_said_again_and_again_by_hand() -> None:
    goal = "Mira sells the old boat."  # four content words
    said, other = "Old boat that Mira is selling!", "Rain fell on the dark town all night."
    assert score(Echo, " ".join([said, other] * 4), goal) == pytest.approx((3 * 4 / (4 * 8) - 0.32) / 0.68)
    assert score(Echo, " ".join([said, other, other, other] * 2), goal) == 0.0
    assert score(Echo, said, goal) == 0.0, "too few sentences to tell"
    assert score(Echo, " ".join(["Mira waited.", other] * 4), "Mira laughs.") == 0.0, "too short a goal to tell"


def test_copying_by_hand() -> None:
    premise = "An old sailor has lost the map of the island."
    assert score(Copying, "An old sailor has lost everything. He wept.", premise=premise) == pytest.approx(5 / 8)
    assert (
        score(
            Copying,
            "It rained and rained on and on. Mira forgives her brother. He slept.",
            "Mira forgives her brother.",
        )
        == 0.5
    )
    assert score(Copying, "Mira forgave him.", "Mira forgives her brother.", premise) == 0.0
    goal = "Uwe talks the widow into keeping the records."
    assert score(Copying, "It rained on and on. Then Uwe talked the widow into keeping them all. " * 2, goal) == 0.5
    assert score(Copying, "The widow kept the records, for Uwe had talked to her. It rained on.", goal) == 0.0
    stands = "Winka stands on one leg all night."
    assert score(Copying, "She slept. Winka stood on one leg all night. It rained on.", stands) == 0.5
    assert score(Copying, "She slept. Winka had stood on one leg all night. It rained on.", stands) == 0.5
    assert score(Copying, "She slept. Winka stood on one leg and dozed all night. It rained on.", stands) == 0.0
    assert score(Copying, "Yolande missed the train.", "Yolande misses the train.") == 0.5
    assert score(Copying, "Yolande caught the train.", "Yolande misses the train.") == 0.0


def test_short_by_hand() -> None:
    assert score(TooShort, "one two three four five") == pytest.approx(0.8)
    assert score(TooShort, "word " * 25) == 0.0
    assert TooShort().score([StoryText("A first turn.", finished=False)]) == [0.0]


def test_guards_leave_written_stories_alone() -> None:
    written = [StoryText.of(story) for story in read_stories(shipped_stories())]
    for guard in GUARDS.values():
        scores = guard().score(written)
        assert sum(scores) / len(scores) < 0.03, guard.name


def test_no_honest_story_is_an_echo() -> None:
    """Neither of the 1,021 written stories nor of the default policy's 120 for the held-out prompts."""
    assert max(Echo().score([*written_stories(), *policy_stories()])) == 0.0


def test_guards_catch_the_gaming_that_they_are_for() -> None:
    """Handwritten attacks (rewards/data/gaming.jsonl): each kind by the guards that are for it.

    A lie is no matter for a guard: it takes a scorer that reads.
    """
    attacks = [row for _, row in read_jsonl(Path(composite.__file__).parent / "data" / "gaming.jsonl")]
    assert len(attacks) == 200

    def caught(kind: str, names: Sequence[str], writers: str, least: float) -> int:
        rows = [row for row in attacks if row["kind"] == kind and row["id"][0] in writers]
        stories = [StoryText(row["text"], row["goal"], row["premise"]) for row in rows]
        return sum(max(GUARDS[name]().score([story])[0] for name in names) > least for story in stories)

    for kind, names, count in (
        ("looped", ["repetition"], 25),
        ("assistant_talk", ["assistant", "format", "copying"], 24),
        ("prompt_echoed", ["echo"], 25),
        ("keyword_soup", ["echo"], 25),
        ("goal_repeated", ["repetition", "premature", "copying", "echo"], 24),
        ("goal_pasted", ["copying"], 23),
    ):
        assert caught(kind, names, "gftuv", 0.05) == count, kind
        assert caught(kind, names, "g", 0.15) == 5, kind  # by the first writer, who hides less


def double_words(prompts: list[str], completions: list[str], goal: list[str], **columns: object) -> list[float]:
    """A reward function as people write them for TRL."""
    return [2.0 * len(text.split()) + len(aim) for text, aim in zip(completions, goal, strict=True)]


def test_a_reward_function_of_the_users_own() -> None:
    name = f"{__name__}:double_words"
    off = dict.fromkeys(composite.DEFAULT_WEIGHTS, 0.0)
    (result,) = composite.build({**off, name: 0.5}).score([StoryText("Four words stand here.", "Aim")])
    assert result.scores == {name: 11.0}
    assert result.reward == 5.5
    for wrong in ("no_such_module:f", f"{__name__}:nothing", ":"):
        with pytest.raises(InputError, match="cannot import"):
            composite.build({wrong: 1.0})


def test_weights_on_the_command_line() -> None:
    assert composite.parse_weights(["goal=2", "a.b:f=-0.5"]) == {"goal": 2.0, "a.b:f": -0.5}
    for wrong in ("goal", "goal=much", "goal=nan"):
        with pytest.raises(InputError, match="name=weight"):
            composite.parse_weights([wrong])


class Constant(Scorer):
    def __init__(self, name: str, value: float):
        self.name, self.value = name, value

    def score(self, stories: object) -> list[float]:
        return [self.value]


def test_composite_by_hand() -> None:
    terms = [composite.Term(Constant("up", 3.0), 2.0, 1.0, 4.0), composite.Term(Constant("down", 0.5), -1.0, 0.25, 0.5)]
    whole = composite.Composite(terms)
    (result,) = whole.score([_NEAR])
    assert result.reward == pytest.approx(2 * 0.5 - 0.5)
    assert result.scores == {"up": 3.0, "down": 0.5}
    bars = whole.bars(result.scores)
    assert bars["up"] == pytest.approx(0.5 * (1 + math.erf(0.5 / math.sqrt(2))))
    assert bars["down"] == pytest.approx(1 - bars["up"])
    assert "clean" not in bars
    guarded = composite.build()
    assert guarded.bars({**dict.fromkeys(guarded.terms, 0.0), "copying": 0.25})["clean"] == 0.75


def test_unknown_and_switched_off_terms() -> None:
    assert set(composite.build({"preference": 0}).terms) == {"goal", *GUARDS}
    assert set(composite.build({"verbs": 0.5}).terms) == {"goal", "preference", "verbs", *GUARDS}
    with pytest.raises(InputError, match="did you mean 'goal'"):
        composite.build({"gaol": 1.0})
    with pytest.raises(InputError, match="every term"):
        composite.build(dict.fromkeys(composite.DEFAULT_WEIGHTS, 0))


def test_bradley_terry_recovers_known_weights() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.tensor([2.0, -1.0, 0.0])
    left, right = torch.randn(4000, 3, generator=generator), torch.randn(4000, 3, generator=generator)
    wins = torch.rand(4000, generator=generator) < torch.sigmoid((left - right) @ truth)
    chosen, rejected = torch.where(wins[:, None], left, right), torch.where(wins[:, None], right, left)
    weight = fit(chosen, rejected, torch.ones(4000), epochs=5, weight_decay=0.0)
    assert torch.allclose(weight, truth, atol=0.15)


def test_mean_word_vectors_by_hand() -> None:
    cat, dog, both, none = mean_word_vectors(["cat", "Dog", "cat dog", ""])
    assert torch.allclose(both, (cat + dog) / 2)
    assert none.shape == (WIDTH,) and not none.any()
    near, far = (torch.cosine_similarity(cat, other, dim=0) for other in mean_word_vectors(["kitten", "treaty"]))
    assert near > far + 0.1  # words that are used alike


def test_preference_of_odd_texts_is_finite() -> None:
    scores = Preference().score([StoryText(""), StoryText("..."), StoryText("word " * 5000), _NEAR])
    assert all(math.isfinite(score) for score in scores)
    assert Preference().score([]) == []


def test_preference_sees_loops_and_assistant_talk() -> None:
    """Written stories against the same spoilt by hand-made rules: most of them score lower."""
    written = [StoryText.of(story) for story in read_stories(shipped_stories())][::40]
    half = [StoryText("\n\n".join(story.text.split("\n\n")[:4])) for story in written]
    looped = [StoryText((story.text[:160] + " ") * (len(story.text) // 160)) for story in written]
    drifted = [StoryText(story.text + " I hope this helps! Let me know if you would like more.") for story in half]
    scorer = Preference()
    for good, bad, least in ((written, looped, 0.95), (half, drifted, 0.7)):
        wins = [a > b for a, b in zip(scorer.score(good), scorer.score(bad), strict=True)]
        assert sum(wins) / len(wins) >= least


def test_words_count_less_in_long_texts() -> None:
    """A text three times over has the same words in the same shares: 600 words count (250 / 600)^2."""
    features, text = load_shipped(shipped_weights()).features, "The boat was gone and the harbour lay still . " * 20
    rows = features([StoryText(text), StoryText(text * 3)])
    short, long = rows[:, len(NAMES) * 5 :]
    assert len(text.split()) == 200
    assert short.norm() > 30
    assert torch.allclose(long, short * (250 / 600) ** 2, atol=1e-4)


def test_long_stories_repeating_themselves_score_below_old_tales() -> None:
    """As the readers of `long_stories.jsonl` would have it; none of these ratings was trained on."""
    everything, models = long_stories(), {one.text for one in long_stories(by_model_only=True)}
    assert (len(everything), len(models)) == (126, 90)
    assert all(0 <= one.rating <= 5 for one in everything)
    tales = [one.text for one in everything if one.text not in models and one.rating > 4.5]
    looped = sorted(models, key=lambda text: len(set(text.split())) / len(text.split()))[: len(tales)]
    scores = Preference().score([StoryText(text) for text in (*tales, *looped)])
    assert len(tales) == 18
    assert min(scores[:18]) > max(scores[18:])
