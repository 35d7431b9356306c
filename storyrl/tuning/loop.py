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

from rewards.base import StoryText
from rewards.composite import Composite, Scored
from storyrl.config import TuneConfig
from storyrl.errors import InputError
from storyrl.policy import Policy, Rollout
from storyrl.story import Prompt
from storyrl.tuning.advantages import BASELINES, gae, returns_to_go
from storyrl.tuning.episodes import Episode
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
        policy = [
            p for p in learner.trained if not learner.critic or all(p is not c for c in learner.critic.parameters())
        ]
        groups: list[dict[str, Any]] = [{"params": policy, "lr": config.learning_rate}]
        if learner.critic:
            groups.append({"params": list(learner.critic.parameters()), "lr": config.critic_learning_rate})
        controller = KLController(config.beta, config.target_kl, config.kl_horizon)
        return cls(0, torch.optim.AdamW(groups, weight_decay=0.0), controller)


@dataclass
class _Experience:
    """The episodes of a prompt with what learning needs of them; each list holds one tensor [A] an episode."""

    episodes: list[Episode]
    reference: list[torch.Tensor]  # log pi_ref of the action tokens, nats
    sampled: list[torch.Tensor]  # log pi of the policy that acted
    rewards: list[torch.Tensor] = field(default_factory=list)  # a token, the KL penalty taken off
    values: list[torch.Tensor] = field(default_factory=list)  # the critic's, before this step's updates
    advantages: list[torch.Tensor] = field(default_factory=list)
    units: list[list[int]] = field(default_factory=list)  # tokens of what has one advantage: story, turn or token


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
        InputError: a reward or the gradient is not finite; the step is then not taken.
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
        scored, turn_rewards = score(learner.policy, rollouts, reward, config)
        clock.lap("rewards")
        batch = _experience(learner, rollouts, turn_rewards, config, state.controller.beta)
        clock.lap("reference")
        measured, grad_norm = _learn(learner, batch, config, state, clock)
        metrics = _metrics(state, rollouts, scored, batch, measured, grad_norm, clock.seconds)
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


def score(
    policy: Policy, rollouts: Sequence[Rollout], reward: Composite, config: TuneConfig
) -> tuple[list[Scored], list[list[float]]]:
    """Scores of the whole stories, and the rewards of each one's turns.

    By the story, all reward comes with the end: one turn. By the turn, a turn is rewarded with what it added to the
    reward of the story so far; without discount these sum to the story's reward, so the optimum is the same.
    """
    texts = [StoryText.of(rollout.story) for rollout in rollouts]
    if config.reward_per == "story":
        scored = reward.score(texts)
        return scored, [[one.reward] for one in scored]
    ends = [rollout.episode.turn_ends for rollout in rollouts]
    parts = [[policy.story_so_far(r, end) for end in own[:-1]] for r, own in zip(rollouts, ends, strict=True)]
    prefixes = [
        StoryText(part.text, part.prompt.goal, part.prompt.premise, finished=False) for own in parts for part in own
    ]
    everything = reward.score([*texts, *prefixes])
    scored, later = everything[: len(texts)], iter(everything[len(texts) :])
    totals = [[*(next(later).reward for _ in own), whole.reward] for own, whole in zip(parts, scored, strict=True)]
    return scored, [[b - a for a, b in zip([0.0, *own], own, strict=False)] for own in totals]


def _experience(
    learner: Learner, rollouts: Sequence[Rollout], turn_rewards: Sequence[list[float]], config: TuneConfig, beta: float
) -> list[_Experience]:
    """The rollouts by prompt, with their advantages."""
    size, batch = config.samples_per_prompt, []
    for start in range(0, len(rollouts), size):
        episodes = [rollout.episode for rollout in rollouts[start : start + size]]
        sampled = [torch.tensor(episode.behaviour_logprobs) for episode in episodes]
        experience = _Experience(episodes, [torch.zeros(0)] * size, sampled)
        with torch.no_grad():
            _read(learner, experience, is_off_policy=config.updates_per_step > 1)
        for sampled_, reference, episode, rewards in zip(
            experience.sampled, experience.reference, episodes, turn_rewards[start : start + size], strict=True
        ):
            per_token = -beta * k1(sampled_, reference)
            ends = episode.turn_ends if len(rewards) > 1 else (len(per_token),)
            for end, turn_reward in zip(ends, rewards, strict=True):
                if end:  # an episode without any token has nothing to learn
                    per_token[end - 1] += turn_reward
            experience.rewards.append(per_token)
        batch.append(experience)
    if config.algorithm == "ppo":
        _gae_advantages(batch, config)
    else:
        _baseline_advantages(batch, config)
    return batch


def _read(learner: Learner, experience: _Experience, is_off_policy: bool) -> None:
    """Fill in the reference's log-probabilities and, where later updates or a critic need them, the policy's own."""
    for rows in learner.parts(experience.episodes):
        episodes = [experience.episodes[row] for row in rows]
        lengths = [sum(episode.is_action_token) for episode in episodes]
        of_reference, _ = learner.logprobs(episodes, of_reference=True)
        found = {"reference": of_reference}
        if is_off_policy or learner.critic:
            found["sampled"], states = learner.logprobs(episodes)
            if learner.critic:
                experience.values = experience.values or [torch.zeros(0)] * len(experience.episodes)
                found["values"] = learner.critic(states)
        for name, flat in found.items():
            for row, tensor in zip(rows, flat.cpu().split(lengths), strict=True):
                getattr(experience, name)[row] = tensor


def _turn_sums(experience: _Experience, by_turn: bool) -> list[list[tuple[int, float]]]:
    """Of each episode, each turn's number of action tokens and summed reward."""
    rows = []
    for episode, rewards in zip(experience.episodes, experience.rewards, strict=True):
        ends = episode.turn_ends if by_turn and episode.turn_ends else (len(rewards),)
        starts = (0, *ends[:-1])
        rows.append([(b - a, float(rewards[a:b].sum())) for a, b in zip(starts, ends, strict=True)])
    return rows


def _baseline_advantages(batch: list[_Experience], config: TuneConfig) -> None:
    """One advantage a turn (by the story: one in all); a story that is over earns 0 in later turns."""
    sums = [_turn_sums(experience, config.reward_per == "turn") for experience in batch]
    turns = max(len(row) for group in sums for row in group)
    rewards = torch.tensor([[[r for _, r in row] + [0.0] * (turns - len(row)) for row in group] for group in sums])
    returns = returns_to_go(rewards, config.discount)  # [G, n, K]
    baseline = BASELINES[config.algorithm]
    advantages = torch.stack([baseline(returns[:, :, turn]) for turn in range(turns)], dim=2)
    for experience, group, own in zip(batch, sums, advantages, strict=True):
        experience.advantages = [
            a[: len(row)].repeat_interleave(torch.tensor([tokens for tokens, _ in row]))
            for a, row in zip(own, group, strict=True)
        ]
        experience.units = [[tokens for tokens, _ in row] for row in group]


def _gae_advantages(batch: list[_Experience], config: TuneConfig) -> None:
    """Advantages a token by the critic, normalised over the batch (Schulman et al. 2016)."""
    for experience in batch:
        for episode, rewards, values in zip(experience.episodes, experience.rewards, experience.values, strict=True):
            discounts = torch.ones_like(rewards)
            if config.reward_per == "turn":
                discounts[[end - 1 for end in episode.turn_ends]] = config.discount
            experience.advantages.append(gae(rewards, values, discounts, config.gae_lambda))
            experience.units.append([1] * len(rewards))
    everything = torch.cat([a for experience in batch for a in experience.advantages])
    for experience in batch:
        # What the critic should have said; it learns from this before normalisation.
        experience.rewards = [a + v for a, v in zip(experience.advantages, experience.values, strict=True)]
        experience.advantages = [(a - everything.mean()) / (everything.std() + 1e-6) for a in experience.advantages]


def _learn(
    learner: Learner, batch: list[_Experience], config: TuneConfig, state: TuneState, clock: "_Clock"
) -> tuple[list[_Measured], float]:
    """The updates of a step; returns what the first pass over each experience measured, and the largest gradient."""
    rng, measured, largest = random.Random(f"{config.seed} {state.step}"), {}, 0.0
    for epoch in range(config.epochs):
        order = list(range(len(batch))) if config.updates_per_step == 1 else rng.sample(range(len(batch)), len(batch))
        for part in range(config.minibatches):
            chosen = order[part :: config.minibatches]
            if epoch or part:
                learner.refresh()
            stories = sum(len(batch[index].episodes) for index in chosen)
            for index in chosen:
                seen = _accumulate(learner, batch[index], config, stories)
                measured.setdefault(index, seen)
            clock.lap("gradient")
            norm = torch.nn.utils.clip_grad_norm_(learner.trained, config.max_grad_norm)
            if not torch.isfinite(norm):
                state.optimiser.zero_grad()
                raise InputError(
                    f"step {state.step}: the gradient is not finite; lower learning_rate ({config.learning_rate})"
                )
            state.optimiser.step()
            state.optimiser.zero_grad()
            largest = max(largest, float(norm))
            clock.lap("optimiser")
    return [measured[index] for index in sorted(measured)], largest


def _accumulate(learner: Learner, experience: _Experience, config: TuneConfig, stories: int) -> _Measured:
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
            returns = torch.cat([experience.rewards[row] for row in rows]).to(device)
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
    batch: Sequence[_Experience],
    measured: Sequence[_Measured],
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
        "loss": sum(seen.loss for seen in measured),
        "clip_fraction": sum(seen.clipped for seen in measured) / len(measured),
        "value_error": sum(seen.value_error for seen in measured) / len(measured),
        "grad_norm": grad_norm,
        "mismatch": sum(seen.mismatch for seen in measured) / len(measured),
        "seconds": {phase: round(value, 3) for phase, value in seconds.items()},
    }
