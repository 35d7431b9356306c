"""What a step's rollouts are worth: rewards of their turns, the KL penalty, and the advantages of their tokens.

Steps 2 to 4 of the algorithm in loop.py; nothing here gets gradient.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from rewards.base import StoryText
from rewards.composite import Composite, Scored
from storyrl.config import TuneConfig
from storyrl.policy import Policy, Rollout
from storyrl.tuning.advantages import BASELINES, gae, returns_to_go
from storyrl.tuning.episodes import Episode
from storyrl.tuning.kl import k1
from storyrl.tuning.learner import Learner


@dataclass
class Experience:
    """The episodes of a prompt with what learning needs of them; each list holds one tensor [A] an episode."""

    episodes: list[Episode]
    reference: list[torch.Tensor]  # log pi_ref of the action tokens, nats
    sampled: list[torch.Tensor]  # log pi of the policy that acted
    rewards: list[torch.Tensor] = field(default_factory=list)  # a token, the KL penalty taken off
    values: list[torch.Tensor] = field(default_factory=list)  # the critic's, before this step's updates
    returns: list[torch.Tensor] = field(default_factory=list)  # what the critic learns to predict
    advantages: list[torch.Tensor] = field(default_factory=list)
    units: list[list[int]] = field(default_factory=list)  # tokens of what has one advantage: story, turn or token


def score_rollouts(
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


def collect(
    learner: Learner, rollouts: Sequence[Rollout], turn_rewards: Sequence[list[float]], config: TuneConfig, beta: float
) -> list[Experience]:
    """The rollouts by prompt, with their advantages."""
    size, batch = config.samples_per_prompt, []
    for start in range(0, len(rollouts), size):
        episodes = [rollout.episode for rollout in rollouts[start : start + size]]
        sampled = [torch.tensor(episode.behaviour_logprobs) for episode in episodes]
        experience = Experience(episodes, [torch.zeros(0)] * size, sampled)
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


def _read(learner: Learner, experience: Experience, is_off_policy: bool) -> None:
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


def _turn_sums(experience: Experience, by_turn: bool) -> list[list[tuple[int, float]]]:
    """Of each episode, each turn's number of action tokens and summed reward."""
    rows = []
    for episode, rewards in zip(experience.episodes, experience.rewards, strict=True):
        ends = episode.turn_ends if by_turn and episode.turn_ends else (len(rewards),)
        starts = (0, *ends[:-1])
        rows.append([(b - a, float(rewards[a:b].sum())) for a, b in zip(starts, ends, strict=True)])
    return rows


def _baseline_advantages(batch: list[Experience], config: TuneConfig) -> None:
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


def _gae_advantages(batch: list[Experience], config: TuneConfig) -> None:
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
        experience.returns = [a + v for a, v in zip(experience.advantages, experience.values, strict=True)]
        experience.advantages = [(a - everything.mean()) / (everything.std() + 1e-6) for a in experience.advantages]
