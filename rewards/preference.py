"""Preference score: a Bradley-Terry model of people's choices on frozen sentence embeddings.

r(x, y) is linear in features of the story y given its premise x; it is fitted on pairs (chosen y_w, rejected y_l) by

    loss = -log sigmoid(r(x, y_w) - r(x, y_l))            (Bradley & Terry 1952; Ziegler et al. 2019, eq. 1)

for one epoch, as reward models are, against overfitting.
"""

import tempfile
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.nn.functional import logsigmoid

from rewards.base import Scorer, StoryText
from rewards.encoder import SentenceEncoder, shared_encoder
from storyrl.errors import InputError
from storyrl.files import read_jsonl

_PLAIN_FEATURES = 5


def shipped_weights() -> Path:
    """The weights inside the package."""
    return Path(str(resources.files("rewards").joinpath("weights", "preference.safetensors")))


class Preference(Scorer):
    """r(x, y) of the Bradley-Terry model: differences are log-odds (nats) that a reader prefers one story."""

    name = "preference"

    def __init__(self, weights: Path | None = None, encoder: SentenceEncoder | None = None):
        path = weights or shipped_weights()
        path = path / "preference.safetensors" if path.is_dir() else path
        try:
            self.weight = load_file(path)["weight"]
        except (OSError, SafetensorError, KeyError) as error:
            raise InputError(
                f"{path}: no preference weights ({error}); fit some with `storyrl fit preference`"
            ) from error
        self.encoder = encoder or shared_encoder()

    def score(self, stories: Sequence[StoryText]) -> list[float]:
        """r of each story."""
        return (features(stories, self.encoder) @ self.weight).tolist() if stories else []


def features(stories: Sequence[StoryText], encoder: SentenceEncoder) -> torch.Tensor:
    """Features [B, 384 + 5] of stories: the mean sentence vector, and five measures of cohesion.

    The five: mean cosine of neighbouring sentences, mean and least cosine with the premise, spread of the sentences
    around their mean, log of the mean sentence length in words (scaled).
    """
    premises = encoder.encode([story.premise for story in stories])
    rows = []
    for story, premise, vectors in zip(
        stories, premises, encoder.encode_stories([s.text for s in stories]), strict=True
    ):
        if len(vectors) == 0:
            rows.append(torch.zeros(encoder.dimension + _PLAIN_FEATURES))
            continue
        to_premise = vectors @ premise if story.premise else torch.zeros(1)
        neighbours = (vectors[1:] * vectors[:-1]).sum(dim=1) if len(vectors) > 1 else torch.zeros(1)
        words = torch.tensor(len(story.text.split()) / len(vectors))
        mean = vectors.mean(dim=0)
        plain = torch.stack([neighbours.mean(), to_premise.mean(), to_premise.min(), 1 - mean.norm(), words.log() / 3])
        rows.append(torch.cat([mean, plain]))
    return torch.stack(rows)


def fit(
    chosen: torch.Tensor,
    rejected: torch.Tensor,
    margins: torch.Tensor,
    *,
    epochs: int = 1,
    learning_rate: float = 0.05,
    batch_size: int = 8,
    weight_decay: float = 0.01,
    start: torch.Tensor | None = None,
    seed: int = 0,
) -> torch.Tensor:
    """Weights [F] of the Bradley-Terry model.

    Args:
        chosen, rejected: features [N, F] of the two sides of N pairs.
        margins: [N] how clear the choice was; a pair's loss is multiplied by it.
        start: weights to start from; None: zeros.
    """
    weight = (torch.zeros(chosen.shape[1]) if start is None else start.clone()).requires_grad_()
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


def pair_features(
    pairs: Sequence[Mapping[str, Any]], encoder: SentenceEncoder
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features of the chosen sides, of the rejected sides, [N, F] each, and margins [N]."""
    sides = [
        features([StoryText(p[side], p.get("goal", ""), p.get("premise", "")) for p in pairs], encoder)
        for side in ("chosen", "rejected")
    ]
    return sides[0], sides[1], torch.tensor([float(p.get("margin", 1.0)) for p in pairs])


def save(weight: torch.Tensor, folder: Path) -> Path:
    """Write `preference.safetensors` into `folder`, whole or not at all."""
    path = folder / "preference.safetensors"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            save_file({"weight": weight.contiguous()}, Path(scratch) / path.name)
            (Path(scratch) / path.name).replace(path)
    except OSError as error:
        raise InputError(f"{folder}: cannot write ({error.strerror or error})") from error
    return path
