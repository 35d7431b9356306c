"""Preference score: a Bradley-Terry model of people's choices, and what one writer's taste adds to it.

r(x, y) is linear in features of the story y (and its premise x). It is fitted on pairs (chosen y_w, rejected y_l) by

    loss = -log sigmoid(r(x, y_w) - r(x, y_l))            (Bradley & Terry 1952; Ziegler et al. 2019, eq. 1)

for one epoch, as reward models are, against overfitting. The features are the measures of rewards/style.py, each as a
curve (a line that may bend at four knots), the mean vector of the story's words, and the words themselves. People chose
between paragraphs of up to 250 words: what they liked in single words counts less and less in longer texts. No neural
network runs: scoring takes a millisecond a story. A folder of `storyrl fit preference` adds a taste (rewards/taste.py),
which does look at sentence embeddings.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rewards.base import Scorer, StoryText
from rewards.encoder import WIDTH, mean_word_vectors
from rewards.files import read_tensors, write_tensors
from rewards.style import HASHED_WORDS, NAMES, WordPairs, hashed_words, measures, plain
from storyrl.errors import InputError
from storyrl.files import read_jsonl

_KNOTS = (0.1, 0.35, 0.65, 0.9)  # quantiles at which a measure's line may bend
_FURTHEST = 4.0  # deviations; measures beyond count as this
_WORDS_COUNT_UP_TO = 250  # words of text; beyond that single words count by the square of this over the length


def shipped_weights() -> Path:
    """The weights inside the package."""
    return Path(str(resources.files("rewards").joinpath("weights", "preference.safetensors")))


@dataclass(frozen=True)
class Features:
    """Turns stories into rows of numbers; fitted once, on the training texts, and shipped with the weights."""

    pairs: WordPairs
    mean: Tensor  # [M] of each measure
    deviation: Tensor  # [M]
    knots: Tensor  # [M, K] in deviations
    words_mean: Tensor  # [384] of the mean word vectors
    words_deviation: Tensor  # [384]

    @property
    def size(self) -> int:
        """F, the number of features."""
        return len(NAMES) * (1 + len(_KNOTS)) + HASHED_WORDS + WIDTH

    @classmethod
    def fit(cls, pairs: WordPairs, texts: Sequence[tuple[str, str]]) -> "Features":
        """Means, deviations and knots over training texts, given as (text, premise)."""
        rows = torch.tensor([measures(text, pairs, premise) for text, premise in texts])
        mean, deviation = rows.mean(dim=0), rows.std(dim=0).clamp(min=1e-6)
        scaled = ((rows - mean) / deviation).clamp(-_FURTHEST, _FURTHEST)
        knots = torch.quantile(scaled, torch.tensor(_KNOTS), dim=0).T.contiguous()
        words = mean_word_vectors([plain(text) for text, _ in texts])
        return cls(pairs, mean, deviation, knots, words.mean(dim=0), words.std(dim=0).clamp(min=1e-6))

    def scaled(self, stories: Sequence[StoryText]) -> Tensor:
        """The measures in deviations from their mean, [B, M]."""
        rows = torch.tensor([measures(story.text, self.pairs, story.premise) for story in stories])
        return ((rows - self.mean) / self.deviation).clamp(-_FURTHEST, _FURTHEST)

    def __call__(self, stories: Sequence[StoryText]) -> Tensor:
        """Features [B, F]: measures, their bends, hashed words and the mean word vector (both less in long texts)."""
        if not stories:
            return torch.zeros(0, self.size)
        scaled = self.scaled(stories)
        bends = (scaled[:, :, None] - self.knots).clamp(min=0).flatten(1)
        hashed = torch.stack([hashed_words(story.text) for story in stories])
        vectors = (mean_word_vectors([plain(story.text) for story in stories]) - self.words_mean) / self.words_deviation
        lengths = torch.tensor([len(story.text.split()) for story in stories])
        trust = (_WORDS_COUNT_UP_TO / lengths.clamp(min=_WORDS_COUNT_UP_TO)).square()[:, None]
        return torch.cat([scaled, bends, hashed * trust, vectors.clamp(-_FURTHEST, _FURTHEST) * trust], dim=1)

    def tensors(self) -> dict[str, Tensor]:
        """What a weights file holds of this."""
        own = {name: tensor for name, tensor in vars(self).items() if name != "pairs"}
        return own | {f"words.{name}": tensor for name, tensor in self.pairs.tensors.items()}


@dataclass(frozen=True)
class BradleyTerry:
    """r(x, y) = features . weight; differences are log-odds (nats) that a reader prefers one story."""

    features: Features
    weight: Tensor  # [F]

    def scores(self, stories: Sequence[StoryText]) -> Tensor:
        """r of each story, [B]."""
        return self.features(stories) @ self.weight

    def save(self, path: Path) -> None:
        """Write as one safetensors file, whole or not at all."""
        write_tensors(self.features.tensors() | {"weight": self.weight.contiguous()}, path)


@functools.cache
def load_shipped(path: Path) -> BradleyTerry:
    """The model of a weights file.

    Raises:
        InputError: no such file, or not of this kind.
    """
    tensors = read_tensors(path)
    try:
        pairs = WordPairs(tensors["words.pairs"], tensors["words.words"])
        features = Features(pairs, *(tensors[field.name] for field in fields(Features) if field.name != "pairs"))
        model = BradleyTerry(features, tensors["weight"])
        if len(features.mean) != len(NAMES) or len(model.weight) != features.size:
            raise KeyError("made by another version of storyrl")
    except KeyError as error:
        raise InputError(f"{path}: no preference weights ({error}); fit some with `storyrl fit preference`") from error
    return model


class Preference(Scorer):
    """The shipped model's r(x, y), plus one writer's taste when a folder of `storyrl fit preference` is given; nats."""

    name = "preference"

    def __init__(self, folder: Path | None = None):
        from rewards.taste import Taste

        self.shipped = load_shipped(shipped_weights())
        self.taste = Taste.load(folder) if folder else None

    def score(self, stories: Sequence[StoryText]) -> list[float]:
        """r of each story."""
        if not stories:
            return []
        general = self.shipped.scores(stories)
        return (general if self.taste is None else self.taste.scores(stories, general)).tolist()


def fit(
    chosen: Tensor,
    rejected: Tensor,
    margins: Tensor,
    *,
    epochs: int = 1,
    learning_rate: float = 0.05,
    batch_size: int = 8,
    weight_decay: float = 0.01,
    seed: int = 0,
) -> Tensor:
    """Weights [F] of the Bradley-Terry model, from zeros by AdamW with a linearly falling learning rate.

    Args:
        chosen, rejected: features [N, F] of the two sides of N pairs.
        margins: [N] how clear the choice was; a pair's loss is multiplied by it.
    """
    weight = torch.zeros(chosen.shape[1], requires_grad=True)
    optimiser = torch.optim.AdamW([weight], lr=learning_rate, weight_decay=weight_decay)
    generator = torch.Generator().manual_seed(seed)
    steps = epochs * -(-len(chosen) // batch_size)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.05, total_iters=steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(chosen), generator=generator).split(batch_size):
            gap = (chosen[rows] - rejected[rows]) @ weight
            loss = -(margins[rows] * logsigmoid(gap)).sum() / margins[rows].sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return weight.detach()


def read_pairs(path: Path) -> list[Mapping[str, Any]]:
    """Preference pairs `{chosen, rejected, premise?, goal?, margin?}` of a JSON Lines file.

    Raises:
        InputError: a field is missing or of the wrong kind, or there are no pairs.
    """
    pairs: list[Mapping[str, Any]] = []
    for number, row in read_jsonl(path):
        for field in ("chosen", "rejected"):
            if not isinstance(row.get(field), str) or not row[field].strip():
                raise InputError(f"{path}:{number}: field '{field}': expected a text")
        margin = row.get("margin", 1.0)
        if isinstance(margin, bool) or not isinstance(margin, int | float) or not 0 < margin < 100:
            raise InputError(f"{path}:{number}: field 'margin': expected a number above 0, got {margin!r}")
        pairs.append(row)
    if not pairs:
        raise InputError(f"{path}: holds no pairs; rate some stories first")
    return pairs
