"""Rewriting a passage: what a passage is, how versions end and join on, and how they are ranked."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from prompts.context import context_ids
from prompts.template import format_turn
from rewards.base import Scorer, StoryText
from rewards.composite import Composite, Term
from storyrl.agent import Agent
from storyrl.choosing import Sampling
from storyrl.errors import InputError
from storyrl.policy import WRITING, Candidate, Policy, Watch
from storyrl.rewrite import FIT, MOST_WORDS, Passage, joints, passage, rewrite
from storyrl.story import Kind, Prompt, Story, Turn

from .conftest import tiny_model, word_tokenizer

_TEXT = "Mira walked to the harbour, slowly. Mr. Tom's dog-cart stood there! Nobody spoke"


def narrated(*texts: str) -> Story:
    turns = (Turn(kind=Kind.NARRATE, text=text) for text in texts)
    return Story(id="s", prompt=Prompt(premise="A boat.", note="Slowly.")).with_turns(*turns)


class Scripted(Policy):
    """A tiny model that says what it is told to, a word at a time."""

    def __init__(self, *texts: str):
        super().__init__(tiny_model("llama"), word_tokenizer(), "scripted")
        self.texts, self.asked, self.told = texts, list[Story](), list[list[str]]()

    def write(
        self,
        stories: Sequence[Story],
        candidates: int,
        seed: int,
        sampling: Sampling = WRITING,
        may_end: bool = True,
        opening: str = "",
        watch: Watch | None = None,
    ) -> list[list[Candidate]]:
        self.asked, self.opening, self.sampling = list(stories), opening, sampling
        words = [self.texts[n % len(self.texts)].split(" ") for n in range(candidates)]
        assert watch
        for count in range(1, 40):
            self.told.append([f"{opening} {' '.join(row[:count])}" for row in words])
            if not watch(self.told[-1]):
                break
        return [[Candidate(None, 5, 0.0, True)] * candidates]


def select(text: str, words: str, number: int = 0) -> Passage:
    start = text.index(words)
    return passage(narrated(*[text] * (number + 1)), number, start, start + len(words))


@pytest.mark.parametrize(
    ("selected", "found"),
    [
        ("alked to th", "walked to the"),
        (" the ", "the"),
        ("harbour, ", "harbour"),
        ("slowly", "slowly."),
        ("Mr", "Mr"),
        ("om's dog-c", "Tom's dog-cart"),
        ("there", "there!"),
        ("Nobody spoke", "Nobody spoke"),
        (_TEXT, _TEXT),
    ],
)
def test_a_passage_is_whole_words_with_the_end_of_their_sentence(selected: str, found: str) -> None:
    where = select(_TEXT, selected)
    assert _TEXT[where.start : where.end] == found


@pytest.mark.parametrize("text", ["“Come in,” she said. Rain.", "Ёлка 🌲 горит. Да!"])
def test_the_whole_block_is_a_passage(text: str) -> None:
    assert passage(narrated(text), 0, 0, len(text)) == Passage(0, 0, len(text))


def test_what_is_no_passage() -> None:
    story = narrated("Rain, and wind.", "word " * (MOST_WORDS + 1))
    for start, end in ((4, 5), (5, 5), (9, 3), (-5, 0), (10**6, 10**7)):
        with pytest.raises(InputError, match="select the words"):
            passage(story, 0, start, end)
    with pytest.raises(InputError, match="the story has 2 blocks"):
        passage(story, 2, 0, 4)
    with pytest.raises(InputError, match=f"At most {MOST_WORDS} words.*you selected {MOST_WORDS + 1}"):
        passage(story, 1, 0, 10**6)


def test_a_passage_in_mid_sentence() -> None:
    """The rest of the block stays, and a version is one of the beginnings of what the model wrote."""
    policy = Scripted("sailed over the wide sea. Then she went home", "ran over a bridge, and she sang of it all night")
    text = "Mira walked to the harbour, slowly."
    story = narrated("Before.", text, "After.")
    found = rewrite(policy, story, select(text, "walked to the", 1), 2, seed=0, hint="darker")
    assert len(found) == 2
    for version, written in zip(found, policy.texts, strict=True):
        assert version.turn.text.startswith("Mira ") and version.turn.text.endswith(" harbour, slowly.")
        new = version.turn.text.removeprefix("Mira ").removesuffix(" harbour, slowly.")
        assert new and (written.startswith(new) or written.replace(",", "").startswith(new))
        assert not new.endswith((",", "."))
        assert version.whole and version.fit is not None and version.turn.author == "policy"
    assert policy.opening == "[narrate] Mira"
    assert [turn.text for turn in policy.asked[0].turns] == ["Before."]
    assert (policy.asked[0].prompt.note, policy.asked[0].prompt.note_depth) == ("Slowly.; darker", 0)
    assert len(policy.told) == 7  # 1.6 * 3 + 2 words are enough


def test_the_end_with_the_best_joint_is_taken() -> None:
    policy = Scripted("ran over the bridge and sang all night long")
    text = "Mira walked to the harbour slowly."
    story = narrated(text)
    where = select(text, "walked to the")
    [version] = rewrite(policy, story, where, 1, seed=0)
    # 0.5 * 3 to 1.6 * 3 + 1 words, without the last one that was seen, which might have gone on
    ends = ["ran over", "ran over the", "ran over the bridge", "ran over the bridge and"]
    lines = [f"[narrate] Mira {end}" for end in ("walked to the", *ends)]
    old, *new = joints(policy, narrated(), lines, " harbour slowly.")
    assert version.turn.text == f"Mira {ends[new.index(max(new))]} harbour slowly."
    assert version.fit == pytest.approx(max(new) - old, abs=1e-4)


def test_a_passage_that_ends_a_sentence() -> None:
    policy = Scripted(
        "He ran. She saw Mr. Tom go by at noon. Then it rained for a week. And so on",
        "Nothing at all came of it and on it went for ever without any end that one could see or hear of at all",
    )
    text = "Rain fell on the old town. She slept."
    where = select(text, "Rain fell on the old town.")
    found = rewrite(policy, narrated(text), where, 2, seed=0)
    assert (found[0].turn.text, found[0].whole) == ("He ran. She saw Mr. Tom go by at noon. She slept.", True)
    assert not found[1].whole
    assert found[1].turn.text.startswith("Nothing at all came") and found[1].turn.text.endswith(" She slept.")


def test_what_follows_is_the_next_block_or_nothing() -> None:
    policy = Scripted("He ran away. Then")
    where = passage(narrated("Rain fell."), 0, 0, 10)
    [last] = rewrite(policy, narrated("Rain fell."), where, 1, seed=0)
    assert (last.turn.text, last.fit) == ("He ran away.", None)
    [version] = rewrite(policy, narrated("Rain fell.", "Wind."), where, 1, seed=0)
    lines = ["[narrate] Rain fell.", "[narrate] He ran away."]
    old, new = joints(policy, narrated(), lines, "\n[narrate] Wind.")
    assert version.fit == pytest.approx(new - old, abs=1e-4)


def test_versions_that_say_the_same_are_dropped() -> None:
    policy = Scripted("She slept. So", "Rain fell. So", "She slept. And")
    where = passage(narrated("Rain fell."), 0, 0, 10)
    found = rewrite(policy, narrated("Rain fell."), where, 3, seed=0)
    assert [version.turn.text for version in found] == ["She slept."]


def test_a_stop_keeps_what_was_written() -> None:
    policy = Scripted("The rain went on and on and on for ever")
    text = "All the birds sang at once in the trees today. End."
    seen: list[list[str]] = []

    def watch(texts: list[str]) -> bool:
        seen.append(texts)
        return len(seen) < 4

    where = select(text, "All the birds sang at once in the trees today.")
    [version] = rewrite(policy, narrated(text), where, 1, seed=0, watch=watch)
    assert seen[-1] == ["The rain went on"]
    assert (version.turn.text, version.whole) == ("The rain went on End.", False)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_joints_are_mean_log_probabilities(kind: str) -> None:
    """Against a plain forward pass over each line; gpt2's head goes the other way (no shared prefix)."""
    policy = Policy(tiny_model(kind), word_tokenizer(), kind)
    story, lines, follows = narrated("Before."), ["[narrate] Mira ran", "[narrate] It"], " home."
    found = joints(policy, story, lines, follows)
    context = context_ids(story, policy.tokenizer, 512)
    for line, value in zip(lines, found, strict=True):
        head, tail = (policy.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (line, follows))
        with torch.no_grad():
            logits = policy.model(torch.tensor([context + head + tail])).logits[0, -len(tail) - 1 : -1].float()
        expected = logits.log_softmax(dim=1)[range(len(tail)), tail].mean()
        assert value == pytest.approx(float(expected), abs=1e-4)


class Length(Scorer):
    """How many characters a story has, in thousands."""

    name = "length"

    def score(self, stories: Sequence[StoryText]) -> list[float]:
        return [len(story.text) / 1000 for story in stories]


def test_the_agent_ranks_by_reward_and_joint() -> None:
    policy = Scripted("He ran away. So", "Everybody in the whole town went home at noon. So", "No. Yes")
    story = narrated("One.", "Rain fell on it.", "Wind.")
    agent = Agent(policy, Composite([Term(Length(), 1.0, 0.0, 1.0)]))
    found = agent.rewrite(story, passage(story, 1, 0, 16), 3, seed=0)
    sums = [each.reward + each.scores[FIT] for each in found]
    assert len(found) == 3 and sums == sorted(sums, reverse=True)
    for each in found:
        assert each.reward == each.scores["length"] == len(f"One.\n\n{each.turn.text}") / 1000


@pytest.mark.slow
def test_the_bundled_model_rewrites(bundled: Any) -> None:
    story = Story(
        id="s", prompt=Prompt(premise="Mira's brother Tom sank her boat.", characters=("Mira", "Tom"))
    ).with_turns(
        Turn(kind=Kind.SAY, actor="Tom", text="I am sorry. I took the boat out at night and lost it."),
        Turn(kind=Kind.NARRATE, text="Mira said nothing."),
    )
    text = story.turns[0].text
    start = text.index("took")
    found = rewrite(bundled, story, passage(story, 0, start, start + len("took the boat out")), 3, seed=1)
    assert found
    for version in found:
        assert version.turn.text.startswith("I am sorry. I ") and version.turn.text.endswith(" at night and lost it.")
        assert (version.turn.kind, version.turn.actor) == (Kind.SAY, "Tom")
        assert version.turn.text != text
        assert format_turn(version.turn).count("\n") == 0
