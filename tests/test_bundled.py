"""Every capability once on the bundled model."""

import json
import math
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from prompts.readers import read_prompts
from rewards import composite
from storyrl import models
from storyrl.agent import Agent
from storyrl.choosing import Sampling
from storyrl.config import TuneConfig
from storyrl.generate import generate
from storyrl.policy import Policy
from storyrl.sft import SFTConfig, fine_tune, perplexity, read_stories, shipped_stories, split
from storyrl.story import Kind, Story, Turn
from storyrl.tuning.episodes import collate, share_prefix
from storyrl.tuning.learner import Learner
from storyrl.tuning.logprobs import plain_logprobs, shared_logprobs
from storyrl.tuning.loop import tune
from storyrl.tuning.lora import lora_layers, merge, with_lora
from storyrl.tuning.run import TuningRun

pytestmark = pytest.mark.slow


def test_generates_stories_with_narration_and_dialogue(bundled: Policy, tmp_path: Path) -> None:
    agent, out = Agent(bundled, composite.build()), tmp_path / "s.jsonl"
    prompts = read_prompts("starter:heldout")[:6]
    assert generate(agent, prompts, out, turns=6, candidates=3, seed=0, batch_size=6) == 6
    records = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert all(len(record["turns"]) >= 4 for record in records)
    kinds = [{turn["kind"] for turn in record["turns"]} for record in records]
    assert sum({"say", "narrate"} <= found or {"say", "do"} <= found for found in kinds) >= 5
    ends = [turn["text"].rstrip("\"'”’)")[-1] for record in records for turn in record["turns"]]
    assert sum(end in ".!?…" for end in ends) >= 0.95 * len(ends)
    actors = [(turn["actor"], record) for record in records for turn in record["turns"] if turn["actor"]]
    known = sum(actor in record["prompt"]["characters"] for actor, record in actors)
    assert known >= 0.7 * len(actors)


def test_suggestions_are_ranked(bundled: Policy) -> None:
    prompt = read_prompts("starter:heldout")[0]
    suggestions = Agent(bundled, composite.build()).suggest(Story(id="s", prompt=prompt), 4, seed=1)
    assert 2 <= len(suggestions) <= 4
    whole = [suggestion.reward for suggestion in suggestions if suggestion.whole]
    assert whole == sorted(whole, reverse=True)
    assert all(suggestion.turn.kind in Kind for suggestion in suggestions)


def test_a_story_that_was_read_ahead_goes_on_the_same() -> None:
    prompt = read_prompts("starter:heldout")[0]
    story = Story(id="long", prompt=prompt, turns=_told(2000))
    fresh, reader = Policy.load(), Policy.load()
    pieces = 1
    while reader.read_ahead(story):
        pieces += 1
    assert 1900 / 256 < pieces < 3000 / 256
    greedy = Sampling(max_tokens=12, temperature=0)
    started = time.perf_counter()
    [[ahead]] = reader.write([story], 1, 0, greedy)
    took = time.perf_counter() - started
    started = time.perf_counter()
    [[anew]] = fresh.write([story], 1, 0, greedy)
    assert ahead.turn == anew.turn
    assert took < (time.perf_counter() - started) / 2


def _told(tokens: int) -> tuple[Turn, ...]:
    """Turns of written stories with about so many tokens."""
    turns = [turn for story in read_stories(shipped_stories()) for turn in story.turns]
    words = [sum(len(turn.text.split()) for turn in turns[:count]) for count in range(len(turns))]
    return tuple(turns[: next(count for count, n in enumerate(words) if n > 0.7 * tokens)])


def test_supervised_stage_lowers_held_out_perplexity() -> None:
    train, heldout = split(read_stories(shipped_stories()), 8, seed=1)
    model, tokenizer = models.load("smollm2")
    before = perplexity(model, tokenizer, heldout)
    adapted = with_lora(model, 8, 0)
    losses = [row["loss"] for row in fine_tune(adapted, tokenizer, train[:48], SFTConfig(epochs=1))]
    assert all(math.isfinite(loss) for loss in losses)
    assert perplexity(adapted, tokenizer, heldout) < 0.92 * before  # after six steps


def test_shipped_adapter_beats_its_base() -> None:
    """On held-out stories of the seed that trained it."""
    _, heldout = split(read_stories(shipped_stories()), SFTConfig().heldout, SFTConfig().seed)
    found = {spec: perplexity(*models.load(spec), heldout[:16]) for spec in ("smollm2", "storyteller")}
    assert found["storyteller"] < 0.6 * found["smollm2"]


def test_tuning_run(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"steps": 2, "prompts_per_step": 2, "samples_per_prompt": 4, "max_tokens": 24}
    (tmp_path / "held.txt").write_text("A cat waits at a locked door.\nTwo sisters share one coat.\n")
    config = TuneConfig(**settings, eval_prompts=str(tmp_path / "held.txt"))
    run = TuningRun(config, tmp_path / "run")
    assert list(run.evaluation("before")) == [2]
    metrics = [step.metrics for step in run.steps()]
    assert list(run.evaluation("after")) == [2]
    run.report()
    assert metrics[0]["kl"] == 0
    assert metrics[1]["kl"] != 0
    assert metrics[0]["mismatch"] < 0.1
    assert all(math.isfinite(m["grad_norm"]) and m["grad_norm"] > 0 for m in metrics)
    tuned = Policy.load(str(tmp_path / "run"))
    moved = sum(
        (a != b).any().item() for a, b in zip(tuned.model.parameters(), Policy.load().model.parameters(), strict=True)
    )
    assert moved > 100
    assert tuned.model.dtype == run.learner.policy.model.dtype
    prompt = read_prompts("starter:heldout")[:1]
    assert torch.isfinite(torch.tensor(tuned.rollout(prompt, 1, 8, 0)[0].episode.behaviour_logprobs)).all()


def test_fast_path_equals_the_plain_one() -> None:
    """Log-probabilities and gradient of four stories of one prompt in float32, with an adapter that is not zero."""
    model, tokenizer = models.load("storyteller", dtype=torch.float32)
    adapted = with_lora(model, 8, 0)
    for _, layer in lora_layers(adapted):
        torch.nn.init.normal_(layer.lora_b, std=0.02)
    merge(adapted)
    policy = Policy(adapted, tokenizer, "storyteller")
    episodes = [rollout.episode for rollout in policy.rollout(read_prompts("starter:heldout")[:1], 4, 24, seed=5)]
    trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    plain, _ = plain_logprobs(adapted, collate(episodes))
    shared, _ = shared_logprobs(adapted, share_prefix(episodes))
    sampled = torch.tensor([logprob for episode in episodes for logprob in episode.behaviour_logprobs])
    assert torch.allclose(plain, sampled, atol=1e-3)
    assert torch.allclose(plain, shared, atol=1e-4)
    weights = torch.randn(len(plain), generator=torch.Generator().manual_seed(0))
    one, two = (torch.autograd.grad((logprobs * weights).sum(), trained) for logprobs in (plain, shared))
    size = max(float(gradient.abs().max()) for gradient in one)
    assert all(torch.allclose(a, b, atol=1e-4 * size) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("algorithm", ["ppo", "grpo"])
def test_other_algorithms_take_a_step(algorithm: str) -> None:
    shape: dict[str, Any] = {"steps": 1, "prompts_per_step": 2, "samples_per_prompt": 2, "max_tokens": 16}
    config = TuneConfig(**shape, algorithm=algorithm, reward_per="turn", epochs=2)
    learner = Learner(Policy.load(), config)
    before = [parameter.detach().clone() for parameter in learner.trained]
    [step] = tune(learner, read_prompts("starter:train"), composite.build(), config)
    assert step.metrics["kl"] == 0 and step.metrics["mismatch"] < 0.1
    assert any(not torch.equal(a, b) for a, b in zip(before, learner.trained, strict=True))
