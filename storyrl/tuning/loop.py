"""KL-penalised policy gradient on stories: the whole algorithm.

For each step:

1. Sample n stories for each of G prompts from the current policy, at temperature 1 with nothing cut off: the policy
   that is scored is the one that is sampled.
2. Score the finished stories: one reward each (a weighted sum of standardised scores).
3. Take off beta * KL(pi || pi_ref), estimated on each story by k1 = log pi - log pi_ref, summed over its tokens. Inside
   the reward this is unbiased; k3 is logged beside it.
4. Advantage = reward minus the mean reward of the prompt's other stories (leave-one-out, RLOO).
5. Gradient of -(1/m) * sum over the m stories of advantage * log pi(story): Williams' REINFORCE (1992).

The optimum is pi_ref(y|x) * exp(r(x, y) / beta), normalised. Everything is on-policy: one gradient step per sample, so
there is no importance ratio and nothing to clip. A group's KL, baseline and gradient need no other group, so groups are
handled one after the other: memory does not grow with G, and no log-probability is computed twice.

The loop yields; logging, evaluation and saving stay outside it.
"""

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from rewards.base import StoryText
from rewards.composite import Composite, Scored
from storyrl.config import TuneConfig
from storyrl.errors import InputError
from storyrl.policy import Rollout
from storyrl.story import Prompt
from storyrl.tuning.advantages import leave_one_out
from storyrl.tuning.episodes import Episode, collate
from storyrl.tuning.kl import k1, k3
from storyrl.tuning.learner import Learner
from storyrl.tuning.logprobs import action_logprobs


@dataclass
class Step:
    """What one step gave: its rollouts with their scores, and its metrics (each defined in the README)."""

    rollouts: list[Rollout]
    scored: list[Scored]
    metrics: dict[str, Any] = field(default_factory=dict)


@dataclass
class _GroupResult:
    loss: float
    kl: torch.Tensor  # [n] nats a story
    k3: torch.Tensor  # [n]
    advantages: torch.Tensor  # [n]
    mismatch: float  # mean |log pi (training pass) - log pi (sampler)| a token


def tune(learner: Learner, prompts: Sequence[Prompt], reward: Composite, config: TuneConfig) -> Iterator[Step]:
    """Train the learner in place, one yield a step.

    Raises:
        InputError: a reward or the gradient is not finite; the weights are then those before the step.
    """
    optimiser = torch.optim.AdamW(learner.trained, lr=config.learning_rate, weight_decay=0.0)
    order = _prompt_order(prompts, config)
    for number in range(config.steps):
        clock = _Clock()
        learner.refresh()
        rollouts = learner.sampler.rollout(
            next(order), config.samples_per_prompt, config.max_tokens, seed=hash((config.seed, number))
        )
        clock.lap("sampling")
        scored = reward.score([StoryText.of(rollout.story) for rollout in rollouts])
        clock.lap("rewards")
        groups = _groups(rollouts, scored, config.samples_per_prompt)
        results = [_accumulate(learner, episodes, rewards, config, len(groups), clock) for episodes, rewards in groups]
        grad_norm = torch.nn.utils.clip_grad_norm_(learner.trained, config.max_grad_norm)
        if not torch.isfinite(grad_norm):
            raise InputError(f"step {number}: the gradient is not finite; lower learning_rate ({config.learning_rate})")
        optimiser.step()
        optimiser.zero_grad()
        clock.lap("optimiser")
        yield Step(rollouts, scored, _metrics(number, rollouts, scored, results, float(grad_norm), clock.seconds))


def _accumulate(
    learner: Learner, episodes: list[Episode], rewards: torch.Tensor, config: TuneConfig, groups: int, clock: "_Clock"
) -> _GroupResult:
    """Add one group's part to the gradient. `rewards` [n] are those of the scorers."""
    batch = collate(episodes, learner.model.device)
    with learner.autocast():
        with learner.reference() as reference:
            reference_logprobs = action_logprobs(reference, batch)  # [n, T]
        clock.lap("reference")
        logprobs = action_logprobs(learner.model, batch)  # [n, T]
    per_token = k1(logprobs.detach(), reference_logprobs)
    kl = per_token.sum(dim=1).cpu()
    advantages = leave_one_out((rewards - config.beta * kl)[None]).squeeze(0)
    is_learned = torch.tensor([config.truncated == "keep" or not episode.truncated for episode in episodes])
    loss = policy_gradient_loss(logprobs, (advantages * is_learned).to(logprobs.device)) / groups
    loss.backward()
    clock.lap("gradient")
    behaviour = torch.tensor([logprob for episode in episodes for logprob in episode.behaviour_logprobs])
    mismatch = (logprobs.detach()[batch.is_action_token].cpu() - behaviour).abs().mean()
    log_k3 = k3(logprobs.detach(), reference_logprobs).sum(dim=1).cpu()
    return _GroupResult(float(loss.detach()) * groups, kl, log_k3, advantages, float(mismatch))


def policy_gradient_loss(logprobs: torch.Tensor, advantages: torch.Tensor) -> torch.Tensor:
    """-(1/B) sum_i A_i sum_t log pi(a_it): its gradient is minus the REINFORCE estimate (Williams 1992).

    Args:
        logprobs: [B, T] nats, 0 where the token is no action.
        advantages: [B], without gradient.
    """
    if logprobs.ndim != 2 or advantages.shape != logprobs.shape[:1]:
        raise ValueError(f"expected [B, T] and [B], got {tuple(logprobs.shape)} and {tuple(advantages.shape)}")
    return -(advantages.detach() * logprobs.sum(dim=1)).mean()


def _prompt_order(prompts: Sequence[Prompt], config: TuneConfig) -> Iterator[list[Prompt]]:
    """Batches of prompts for ever: every prompt once, in an order shuffled anew, then again."""
    rng = random.Random(config.seed)
    waiting: list[Prompt] = []
    while True:
        while len(waiting) < config.prompts_per_step:
            waiting += rng.sample(list(prompts), len(prompts))
        yield waiting[: config.prompts_per_step]
        waiting = waiting[config.prompts_per_step :]


def _groups(
    rollouts: Sequence[Rollout], scored: Sequence[Scored], size: int
) -> list[tuple[list[Episode], torch.Tensor]]:
    return [
        (
            [rollout.episode for rollout in rollouts[start : start + size]],
            torch.tensor([result.reward for result in scored[start : start + size]]),
        )
        for start in range(0, len(rollouts), size)
    ]


class _Clock:
    """Adds up the seconds of each phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, phase: str) -> None:
        """Count the time since the last lap for `phase`."""
        now = time.perf_counter()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self._last
        self._last = now


def _metrics(
    number: int,
    rollouts: Sequence[Rollout],
    scored: Sequence[Scored],
    results: Sequence[_GroupResult],
    grad_norm: float,
    seconds: dict[str, float],
) -> dict[str, Any]:
    kl = torch.cat([result.kl for result in results])
    rewards = torch.tensor([result.reward for result in scored])
    lengths = torch.tensor([len(rollout.episode.behaviour_logprobs) for rollout in rollouts], dtype=torch.float)
    entropy = -sum(sum(rollout.episode.behaviour_logprobs) for rollout in rollouts) / float(lengths.sum())
    by_score = {name: torch.tensor([result.scores[name] for result in scored]) for name in scored[0].scores}
    return {
        "step": number,
        "reward": float(rewards.mean()),
        "reward_std": float(rewards.std()),
        "kl": float(kl.mean()),
        "kl_per_token": float(kl.sum() / lengths.sum()),
        "kl_k3": float(torch.cat([result.k3 for result in results]).mean()),
        "scores": {name: {"mean": float(x.mean()), "std": float(x.std())} for name, x in by_score.items()},
        "advantage_std": float(torch.cat([result.advantages for result in results]).std()),
        "entropy": entropy,
        "tokens": float(lengths.mean()),
        "ended": 1 - sum(rollout.episode.truncated for rollout in rollouts) / len(rollouts),
        "loss": sum(result.loss for result in results) / len(results),
        "grad_norm": grad_norm,
        "mismatch": sum(result.mismatch for result in results) / len(results),
        "seconds": {phase: round(value, 3) for phase, value in seconds.items()},
    }
