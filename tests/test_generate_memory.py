"""Batch generation keeps nothing but what it writes: memory stays flat over 10,000 prompts."""

import resource
from pathlib import Path

import pytest

from rewards import composite
from storyrl.agent import Agent
from storyrl.generate import generate
from storyrl.policy import Policy
from storyrl.story import Prompt

from .conftest import tiny_model, word_tokenizer

_PROMPTS = 10_000


@pytest.mark.slow
def test_memory_is_flat_over_ten_thousand_prompts(tmp_path: Path) -> None:
    policy = Policy(tiny_model("llama"), word_tokenizer(), "tiny")
    agent = Agent(policy, composite.build({"goal": 0, "preference": 0}))
    prompts = [
        Prompt(id=f"p{n}", premise=f"Mira has {n} boats.", goal=f"Tom steals {n} of them.") for n in range(_PROMPTS)
    ]
    peaks: dict[int, float] = {}

    def watch(done: int) -> None:
        peaks[done] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    count = generate(
        agent, prompts, tmp_path / "stories.jsonl", turns=1, candidates=1, seed=0, batch_size=50, progress=watch
    )
    assert count == _PROMPTS
    lines = (tmp_path / "stories.jsonl").read_text("utf-8").splitlines()
    assert len(lines) == _PROMPTS and len(set(lines)) == _PROMPTS
    assert peaks[_PROMPTS] - peaks[2000] < 20, "MB"
