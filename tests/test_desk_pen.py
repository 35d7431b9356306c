"""The model at work for the desk: how its turns begin, what is seen of them as they come, and how it is stopped."""

import math
from itertools import pairwise

import pytest

from storyrl.choosing import Sampling
from storyrl.errors import InputError
from storyrl.policy import Policy
from storyrl.story import Kind, Prompt, Story, Turn

from .conftest import tiny_model, word_tokenizer

STORY = Story(id="s", prompt=Prompt(premise="A boat.")).with_turns(Turn(kind=Kind.NARRATE, text="Rain."))
SHORT = Sampling(max_tokens=12)


@pytest.fixture(scope="module")
def policy() -> Policy:
    return Policy(tiny_model("llama"), word_tokenizer(), "tiny")


@pytest.mark.parametrize(
    ("opening", "kind", "actor"),
    [("[narrate] So", Kind.NARRATE, None), ("[say Mira] So", Kind.SAY, "Mira"), ("[do Tom] So", Kind.DO, "Tom")],
)
def test_turns_begin_as_they_are_told_to(policy: Policy, opening: str, kind: Kind, actor: str | None) -> None:
    [drawn] = policy.write([STORY], 4, 1, SHORT, may_end=False, opening=opening)
    turns = [candidate.turn for candidate in drawn]
    assert [(turn.kind, turn.actor) for turn in turns if turn] == [(kind, actor)] * 4
    assert all(turn and turn.text.startswith("So") for turn in turns)


def test_looking_on_changes_nothing(policy: Policy) -> None:
    seen: list[list[str]] = []

    def watch(texts: list[str]) -> bool:
        seen.append(texts)
        return True

    plain = policy.write([STORY], 3, 1, SHORT, opening="[narrate]")
    watched = policy.write([STORY], 3, 1, SHORT, opening="[narrate]", watch=watch)
    assert [c.turn for c in watched[0]] == [c.turn for c in plain[0]]
    assert len(seen) == 11  # the last of twelve tokens is not read back by the model
    for before, after in pairwise(seen):
        assert all(a.startswith(b.rstrip("\ufffd")) for a, b in zip(after, before, strict=True))


def test_stopped_turns_keep_what_there_is(policy: Policy) -> None:
    calls: list[int] = []

    def watch(texts: list[str]) -> bool:
        calls.append(len(texts))
        return len(calls) < 5

    [drawn] = policy.write([STORY], 3, 1, SHORT, opening="[narrate] So it", watch=watch)
    assert calls == [3] * 5
    assert all(c.tokens <= 5 and math.isfinite(c.logprob) and c.logprob < 0 for c in drawn)
    assert all(c.turn and c.turn.text.startswith("So it") for c in drawn)


def test_an_error_of_the_model_is_not_swallowed(policy: Policy) -> None:
    def watch(texts: list[str]) -> bool:
        raise InputError("no more")

    with pytest.raises(InputError, match="no more"):
        policy.write([STORY], 1, 1, SHORT, watch=watch)
