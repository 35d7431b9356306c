"""KL-penalised policy gradient on stories: the whole algorithm.

For each step:

1. Sample n stories for each of G prompts from the current policy, at temperature 1 with nothing cut off: the policy
   that is scored is the one that is sampled.
2. Score them: one reward a story (a weighted sum of standardised scores), or what each turn added to it.
3. Take off beta * KL(pi || pi_ref), estimated on each token by k1 = log pi - log pi_ref. Inside the reward this is
   unbiased; k3 is logged beside it.
4. Advantages: what came after, minus a baseline.
       rloo       the mean of the prompt's other stories (the default: unbiased, no further model)
       reinforce  the mean of the whole batch
       grpo       the mean of the prompt's stories, over their deviation
       ppo        a critic's prediction, by generalised advantage estimation a token; batch-normalised
5. Gradient of -(1/m) sum over m stories of sum_t A_t log pi(a_t): Williams' REINFORCE (1992). With more than one update
   a step (`epochs`, `minibatches`) the later ones are off-policy: PPO's clipped ratio takes its place.

The optimum is pi_ref(y|x) * exp(r(x, y) / beta), normalised. With one update a step nothing is clipped and no
log-probability is computed twice: the sampler's own stand in the penalty (its weights are the policy's; `mismatch` says
how far its arithmetic is off). Episodes of several turns may hold tokens of others: only action tokens count.

The loop yields; logging, evaluation and saving stay outside it.
"""

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from rewards.composite import Composite, Scored
from storyrl.config import TuneConfig
from storyrl.errors import InputError
from storyrl.policy import Rollout
from storyrl.story import Prompt
from storyrl.tuning.experience import Experience, collect, score_rollouts
from storyrl.tuning.kl import KLController, k1, k3
from storyrl.tuning.learner import Learner
from storyrl.tuning.losses import clipped_loss, policy_gradient_loss, value_loss


@dataclass
class Step:
    """What one step gave: its rollouts with their scores, and its metrics (each defined in the README)."""

    rollouts: list[Rollout]
    scored: list[Scored]
    metrics: dict[str, Any] = field(default_factory=dict)
    alarms: list[str] = field(default_factory=list)


@dataclass
class TuneState:
    """What changes from step to step besides the learner's parameters; a checkpoint holds both."""

    step: int
    optimiser: torch.optim.Optimizer
    controller: KLController

    @classmethod
    def start(cls, learner: Learner, config: TuneConfig) -> "TuneState":
        """The state before the first step."""
        groups: list[dict[str, Any]] = [{"params": learner.trained, "lr": config.learning_rate}]
        if learner.critic:
            groups.append({"params": list(learner.critic.parameters()), "lr": config.critic_learning_rate})
        controller = KLController(config.beta, config.target_kl, config.kl_horizon)
        return cls(0, torch.optim.AdamW(groups, weight_decay=0.0), controller)


@dataclass
class _Measured:
    """What the gradient pass saw of one experience."""

    loss: float
    kl: torch.Tensor  # [n] nats a story, k1
    k3: torch.Tensor  # [n]
    mismatch: float  # mean |log pi (training pass) - log pi (sampler)| a token
    clipped: float  # share of tokens
    value_error: float  # mean square


def tune(
    learner: Learner, prompts: Sequence[Prompt], reward: Composite, config: TuneConfig, state: TuneState | None = None
) -> Iterator[Step]:
    """Train the learner in place, one yield a step; `state` goes on from a checkpoint.

    Raises:
        InputError: a reward or the gradient is not finite; that update is then not made.
    """
    state = state or TuneState.start(learner, config)
    while state.step < config.steps:
        clock = _Clock()
        learner.refresh()
        rollouts = learner.policy.rollout(
            prompts_of_step(prompts, config, state.step),
            config.samples_per_prompt,
            config.max_tokens,
            seed=hash((config.seed, state.step)),
        )
        clock.lap("sampling")
        scored, turn_rewards = score_rollouts(learner.policy, rollouts, reward, config)
        clock.lap("rewards")
        batch = collect(learner, rollouts, turn_rewards, config, state.controller.beta)
        clock.lap("reference")
        measured, grad_norm = _learn(learner, batch, config, state, clock)
        metrics = _metrics(state, rollouts, scored, batch, measured, config.minibatches, grad_norm, clock.seconds)
        state.controller.update(metrics["kl"], len(rollouts))
        state.step += 1
        yield Step(rollouts, scored, metrics)


def prompts_of_step(prompts: Sequence[Prompt], config: TuneConfig, step: int) -> list[Prompt]:
    """The prompts of a step: all in an order of their own in each pass, one pass after the other."""
    first = step * config.prompts_per_step
    places = range(first, first + config.prompts_per_step)
    passes = {place // len(prompts) for place in places}
    orders = {n: random.Random(f"{config.seed} {n}").sample(list(prompts), len(prompts)) for n in passes}
    return [orders[place // len(prompts)][place % len(prompts)] for place in places]


def _learn(
    learner: Learner, batch: list[Experience], config: TuneConfig, state: TuneState, clock: "_Clock"
) -> tuple[list[_Measured], float]:
    """The updates of a step; returns what the first pass over each experience measured, and the largest gradient."""
    rng, largest = random.Random(f"{config.seed} {state.step}"), 0.0
    measured: dict[int, _Measured] = {}
    for epoch in range(config.epochs):
        order = list(range(len(batch))) if config.updates_per_step == 1 else rng.sample(range(len(batch)), len(batch))
        for part in range(config.minibatches):
            chosen = order[part :: config.minibatches]
            if epoch or part:
                learner.refresh()
            stories = sum(len(batch[index].episodes) for index in chosen)
            for index in chosen:
                measured.setdefault(index, _accumulate(learner, batch[index], config, stories))
            clock.lap("gradient")
            # The critic's gradient is held apart: it must not scale down the policy's.
            norms = [
                torch.nn.utils.clip_grad_norm_(group["params"], config.max_grad_norm)
                for group in state.optimiser.param_groups
            ]
            if not all(map(torch.isfinite, norms)):
                state.optimiser.zero_grad()
                raise InputError(
                    f"step {state.step}: the gradient is not finite; lower learning_rate ({config.learning_rate})"
                )
            state.optimiser.step()
            state.optimiser.zero_grad()
            largest = max(largest, float(norms[0]))
            clock.lap("optimiser")
    return [measured[index] for index in sorted(measured)], largest


def _accumulate(learner: Learner, experience: Experience, config: TuneConfig, stories: int) -> _Measured:
    """Add one prompt's part to the gradient of a batch of so many stories."""
    size = len(experience.episodes)
    seen = _Measured(0.0, torch.zeros(size), torch.zeros(size), 0.0, 0.0, 0.0)
    tokens = max(1, sum(len(rewards) for rewards in experience.rewards))
    for rows in learner.parts(experience.episodes):
        episodes = [experience.episodes[row] for row in rows]
        learns = [config.truncated == "keep" or not episode.truncated for episode in episodes]
        advantages = [experience.advantages[row] * float(ok) for row, ok in zip(rows, learns, strict=True)]
        logprobs, states = learner.logprobs(episodes)
        device, share = logprobs.device, len(logprobs) / tokens
        flat = torch.cat(advantages).to(device)
        sampled = torch.cat([experience.sampled[row] for row in rows]).to(device)
        if config.updates_per_step > 1:
            lengths = torch.tensor([n for row in rows for n in experience.units[row] if n], device=device)
            loss, clipped = clipped_loss(logprobs, sampled, flat, lengths, config.clip, stories)
            seen.clipped += share * float(clipped)
        else:
            loss = policy_gradient_loss(logprobs, flat, stories)
        seen.loss += float(loss.detach())
        if learner.critic:
            returns = torch.cat([experience.returns[row] for row in rows]).to(device)
            of_values = value_loss(learner.critic(states), returns, stories)
            seen.value_error += 2 * float(of_values.detach()) * stories / tokens
            loss = loss + of_values
        if len(logprobs):
            loss.backward()
            learner.gather_gradient()
        now = logprobs.detach() if config.updates_per_step == 1 else sampled  # before this step's updates
        behaviour = torch.tensor([x for episode in episodes for x in episode.behaviour_logprobs], device=device)
        seen.mismatch += float((now - behaviour).abs().sum()) / tokens
        reference = torch.cat([experience.reference[row] for row in rows]).to(device)
        tokens_of = [len(experience.advantages[row]) for row in rows]
        for name, estimate in (("kl", k1), ("k3", k3)):
            parts = estimate(now, reference).cpu().split(tokens_of)
            getattr(seen, name)[rows] = torch.stack([part.sum() for part in parts])
    return seen


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
    state: TuneState,
    rollouts: Sequence[Rollout],
    scored: Sequence[Scored],
    batch: Sequence[Experience],
    measured: Sequence[_Measured],
    minibatches: int,
    grad_norm: float,
    seconds: dict[str, float],
) -> dict[str, Any]:
    kl = torch.cat([seen.kl for seen in measured])
    rewards = torch.tensor([result.reward for result in scored])
    lengths = torch.tensor([len(rollout.episode.behaviour_logprobs) for rollout in rollouts], dtype=torch.float)
    entropy = -sum(sum(rollout.episode.behaviour_logprobs) for rollout in rollouts) / max(1.0, float(lengths.sum()))
    by_score = {name: torch.tensor([result.scores[name] for result in scored]) for name in scored[0].scores}
    advantages = torch.cat([a for experience in batch for a in experience.advantages])
    return {
        "step": state.step,
        "reward": float(rewards.mean()),
        "reward_std": float(rewards.std()),
        "kl": float(kl.mean()),
        "kl_per_token": float(kl.sum() / lengths.sum().clamp(min=1)),
        "kl_k3": float(torch.cat([seen.k3 for seen in measured]).mean()),
        "beta": state.controller.beta,
        "scores": {name: {"mean": float(x.mean()), "std": float(x.std())} for name, x in by_score.items()},
        "advantage_std": float(advantages.std()),
        "entropy": entropy,
        "tokens": float(lengths.mean()),
        "ended": 1 - sum(rollout.episode.truncated for rollout in rollouts) / len(rollouts),
        "loss": sum(seen.loss for seen in measured) / minibatches,
        "clip_fraction": sum(seen.clipped for seen in measured) / len(measured),
        "value_error": sum(seen.value_error for seen in measured) / len(measured),
        "grad_norm": grad_norm,
        "mismatch": sum(seen.mismatch for seen in measured) / len(measured),
        "seconds": {phase: round(value, 3) for phase, value in seconds.items()},
    }
