"""Makes the shipped reward weights: `python -m rewards.train` (about two minutes on two cores).

1. Fits the preference model on the authored pairs (rewards/data/preference_pairs.jsonl) and prints its accuracy in
   five-fold cross-validation, with a 95 % interval, after one epoch and after three.
2. Measures mean and deviation of both scorers on stories of the default policy for the starter prompts
   (weights/standard.json).
"""

import math
from importlib import resources
from pathlib import Path

import torch

from prompts.readers import read_prompts
from rewards.base import StoryText
from rewards.composite import standardise
from rewards.encoder import shared_encoder
from rewards.goal import GoalSimilarity
from rewards.preference import Preference, fit, pair_features, read_pairs, save, shipped_weights
from storyrl.policy import Policy

_STORY_TOKENS = 160
_FOLDS = 5


def main() -> None:
    """Fit, report, write."""
    encoder = shared_encoder()
    pairs = read_pairs(Path(str(resources.files("rewards").joinpath("data", "preference_pairs.jsonl"))))
    chosen, rejected, margins = pair_features(pairs, encoder)
    for epochs in (1, 3):
        accuracy, error = cross_validate(chosen, rejected, margins, epochs)
        print(f"{epochs} epoch(s): {accuracy:.3f} +- {error:.3f} of {len(pairs)} authored pairs, {_FOLDS}-fold")
    save(fit(chosen, rejected, margins), shipped_weights().parent)

    policy, prompts = Policy.load(), read_prompts("starter:train")
    batches = [prompts[start : start + 64] for start in range(0, len(prompts), 64)]
    rollouts = [rollout for batch in batches for rollout in policy.rollout(batch, 1, _STORY_TOKENS, seed=1)]
    standardise(
        [GoalSimilarity(encoder), Preference(encoder=encoder)],
        [StoryText.of(rollout.story) for rollout in rollouts],
    )


def cross_validate(
    chosen: torch.Tensor, rejected: torch.Tensor, margins: torch.Tensor, epochs: int
) -> tuple[float, float]:
    """Share of held-out pairs in which the chosen side scores higher, and the half-width of its 95 % interval."""
    rows, right = torch.arange(len(chosen)), torch.zeros(len(chosen))
    for fold in range(_FOLDS):
        out = rows % _FOLDS == fold
        weight = fit(chosen[~out], rejected[~out], margins[~out], epochs=epochs)
        right[out] = ((chosen[out] - rejected[out]) @ weight > 0).float()
    share = float(right.mean())
    return share, 1.96 * math.sqrt(share * (1 - share) / len(right))


if __name__ == "__main__":
    main()
