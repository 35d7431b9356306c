"""Trains the preference model: `python -m rewards.train_preference DATA_FOLDER` (a few minutes on two cores).

Counts word pairs in written stories, fits the features' scales, and then the Bradley-Terry weights on pairs of all
kinds at once (rewards/preference_data.py) for one epoch. Every kind has a share of the loss that is fixed in `SHARES`,
however many pairs it has. Writes weights/preference.safetensors and weights/directions.safetensors. Seeds are fixed.
"""

import argparse
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import torch
from torch import Tensor

from rewards import preference_data as data_sets
from rewards.base import StoryText
from rewards.encoder import shared_encoder
from rewards.files import write_tensors
from rewards.preference import BradleyTerry, Features, fit, shipped_weights
from rewards.preference_data import Pair
from rewards.style import WordPairs
from rewards.taste import Directions, directions_file
from storyrl import console
from storyrl.files import read_jsonl

SHARES = {
    "lamp": 5.0,
    "lamp_scores": 1.0,
    "roc": 1.0,
    "scratchplot": 0.5,
    "authored": 0.5,
    "policy": 2.0,
    "corrupted": 2.0,
}
_LEARNING_RATE = 0.004
_WEIGHT_DECAY = 1.0


def main() -> None:
    """Fit and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path, help="folder with lamp/, plotcoh_roc/, scratchplot/, public_domain_tales/")
    options = parser.parse_args()
    console.say("counting words and making pairs ...")
    pairs = all_pairs(options.data)
    prepared = prepare(pairs, word_pairs(options.data))
    weight = fit_pairs(prepared, range(len(pairs)))
    BradleyTerry(prepared.features, weight).save(shipped_weights())
    directions = Directions.fit(reference_texts(), shared_encoder())
    write_tensors(vars(directions), directions_file())
    print(f"{shipped_weights()}: fitted on {len(pairs)} pairs, {dict(Counter(pair.source for pair in pairs))}")


def all_pairs(data: Path, seed: int = 0) -> list[Pair]:
    """The pairs of every kind; the same for the same seed."""
    rng = random.Random(seed)
    return [
        *data_sets.lamp_pairs(data),
        *data_sets.lamp_scores(data, 800, rng),
        *data_sets.rated_pairs(data_sets.roc(data), "roc", 0.8, 800, rng),
        *data_sets.rated_pairs(data_sets.scratchplot(data), "scratchplot", 1.3, 500, rng),
        *data_sets.authored_pairs(),
        *data_sets.against_policy(rng),
        *data_sets.corrupted(data, 1350, rng),
    ]


def word_pairs(data: Path) -> WordPairs:
    """Counts over the public tales (but for those of FairytaleQA's val and test) and storyrl's own stories."""
    tales = [
        row["text"]
        for _, row in read_jsonl(data / "public_domain_tales" / "tales.jsonl")
        if row["fairytaleqa_overlap"] not in ("val", "test")
    ]
    return WordPairs.count([*tales, *data_sets.written_texts()])


def reference_texts() -> list[str]:
    """Stories by people and by the default policy: what the directions of meaning are fitted on."""
    own = Path(str(resources.files("rewards").joinpath("data", "goal_policy.jsonl")))
    return [*data_sets.written_texts(), *(row["story"] for _, row in read_jsonl(own) if row["split"] == "train")]


@dataclass(frozen=True)
class Prepared:
    """Features of the two sides of N pairs, and the weight of each pair in the loss."""

    features: Features
    chosen: Tensor  # [N, F]
    rejected: Tensor  # [N, F]
    sources: tuple[str, ...]


def prepare(pairs: Sequence[Pair], words: WordPairs) -> Prepared:
    """Features fitted on, and of, the texts of all pairs."""
    texts = [(text, pair.premise) for pair in pairs for text in (pair.chosen, pair.rejected)]
    features = Features.fit(words, texts)
    rows = features([StoryText(text, "", premise) for text, premise in texts])
    return Prepared(features, rows[::2], rows[1::2], tuple(pair.source for pair in pairs))


def fit_pairs(prepared: Prepared, rows: Sequence[int], epochs: int = 1) -> Tensor:
    """Weights fitted on some of the pairs."""
    chosen_rows = torch.tensor(list(rows))
    counts = Counter(prepared.sources[row] for row in rows)
    margins = torch.tensor([SHARES[prepared.sources[row]] / counts[prepared.sources[row]] for row in rows])
    return fit(
        prepared.chosen[chosen_rows],
        prepared.rejected[chosen_rows],
        margins / margins.mean(),
        epochs=epochs,
        learning_rate=_LEARNING_RATE,
        weight_decay=_WEIGHT_DECAY,
    )


if __name__ == "__main__":
    console.set_up(quiet=False, threads=None)
    main()
