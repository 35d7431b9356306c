"""The model at work for the desk: how its turns begin, what is seen of them as they come, and how it is stopped."""

import math
import threading
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast

import pytest

from rewards.composite import Composite, Term
from rewards.guards import Repetition
from storyrl.agent import Agent, Suggestion
from storyrl.decoding import Sampling
from storyrl.errors import InputError
from storyrl.policy import Policy
from storyrl.story import Kind, Prompt, Story, Turn
from ui.pen import Order, Pen

from .conftest import tiny_model, word_tokenizer

STORY = Story(id="s", prompt=Prompt(premise="A boat.")).with_turns(Turn(kind=Kind.NARRATE, text="Rain."))
SHORT = Sampling(max_tokens=12)


@pytest.fixture(scope="module")
def policy() -> Policy:
    return Policy(tiny_model("llama"), word_tokenizer(), "tiny")


@pytest.fixture(scope="module")
def agent(policy: Policy) -> Agent:
    return Agent(policy, Composite([Term(Repetition(), -1.0, 0.0, 1.0)]))


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
    assert not policy.model._forward_pre_hooks


def test_stopped_turns_keep_what_there_is(policy: Policy) -> None:
    calls: list[int] = []

    def watch(texts: list[str]) -> bool:
        calls.append(len(texts))
        return len(calls) < 5

    [drawn] = policy.write([STORY], 3, 1, SHORT, opening="[narrate] So it", watch=watch)
    assert calls == [3] * 5
    assert all(c.tokens <= 5 and math.isnan(c.logprob) for c in drawn)
    assert all(c.turn and c.turn.text.startswith("So it") for c in drawn)
    assert not policy.model._forward_pre_hooks
    whole = policy.write([STORY], 1, 1, SHORT)
    assert not math.isnan(whole[0][0].logprob)


def test_an_error_of_the_model_is_not_swallowed(policy: Policy) -> None:
    def watch(texts: list[str]) -> bool:
        raise InputError("no more")

    with pytest.raises(InputError, match="no more"):
        policy.write([STORY], 1, 1, SHORT, watch=watch)
    assert not policy.model._forward_pre_hooks


def test_the_pen_gives_suggestions_at_last(agent: Agent) -> None:
    *_, last = Pen(agent).write("me", Order(STORY, 3, SHORT, "[say Mira] So"))
    suggestions = cast(list[Suggestion], last)
    assert 1 <= len(suggestions) <= 3
    assert {s.turn.actor for s in suggestions} == {"Mira"}


class Slow:
    """An agent that writes until it is told to stop."""

    def __init__(self) -> None:
        self.ended = threading.Event()

    def suggest(self, *args: Any) -> Sequence[Suggestion]:
        words = 0
        while args[-1]([f"{words} words"]):
            words += 1
            time.sleep(0.01)
        self.ended.set()
        return []


def test_the_pen_stops_for_one_writer_only() -> None:
    slow = Slow()
    pen = Pen(cast(Agent, slow))
    going = pen.write("me", Order(STORY, 1, SHORT))
    assert next(going) != next(going)
    pen.stop("somebody else")
    assert str(next(going)[0]).endswith("words")
    pen.stop("me")
    assert list(going)[-1] == []
    assert slow.ended.is_set()


def test_a_reader_who_leaves_stops_the_model() -> None:
    slow = Slow()
    going = Pen(cast(Agent, slow)).write("me", Order(STORY, 1, SHORT))
    next(going)
    cast(Any, going).close()
    assert slow.ended.is_set()


def test_the_pen_hands_errors_on() -> None:
    class Broken:
        def suggest(self, *args: Any) -> Sequence[Suggestion]:
            raise InputError("out of words")

    with pytest.raises(InputError, match="out of words"):
        list(Pen(cast(Agent, Broken())).write("me", Order(STORY, 1, SHORT)))
