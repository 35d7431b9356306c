"""The network of the goal classifier: a small BERT that reads a text once and answers for any number of goals.

A row holds one story and its goals, [CLS] story [SEP] | [CLS] goal [SEP] | [CLS] goal [SEP] | ...  Story tokens attend
to the story, a goal's tokens to the story and to that goal, so goals do not see one another and reading a story costs
the same for one goal as for ten. Every goal's positions start at the same place behind the longest story: how long this
one is shows only in what it says. The answer is read at the goal's [CLS]. The architecture is BERT's (Devlin et al.
2019) with the sizes of all-MiniLM-L6-v2, from which training starts.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HEADS = 12
MAX_POSITIONS = 512
MAX_STORY_TOKENS = 448  # [CLS] and [SEP] included; positions of goals start behind
MAX_GOAL_TOKENS = MAX_POSITIONS - MAX_STORY_TOKENS


@dataclass(frozen=True)
class Packed:
    """B rows of stories and their goals, padded to T tokens; N goals in all."""

    ids: Tensor  # [B, T] int64
    positions: Tensor  # [B, T] int64, of the story from 0, of each goal from MAX_STORY_TOKENS
    segment: Tensor  # [B, T] int64: 0 story, 1, 2, ... the row's goals, -1 padding
    goal_rows: Tensor  # [N] the row of each goal's [CLS]
    goal_columns: Tensor  # [N] its column
    real: Tensor  # [R] where the B x T are no padding

    def to(self, device: str) -> "Packed":
        """The same batch on another device."""
        return Packed(*(tensor.to(device) for tensor in vars(self).values()))

    def unpadded(self, x: Tensor) -> Tensor:
        """[B T, ...] to [R, ...]."""
        return x if len(self.real) == len(x) else x.index_select(0, self.real)

    def padded(self, x: Tensor) -> Tensor:
        """[R, H] to [B T, H], zeros where padding is."""
        places = self.ids.numel()
        return x if len(x) == places else x.new_zeros(places, x.shape[1]).index_copy(0, self.real, x)

    def at_goals(self, x: Tensor) -> Tensor:
        """[B T, H] to [N, H]."""
        return x[self.goal_rows * self.ids.shape[1] + self.goal_columns]

    def may_attend(self) -> Tensor:
        """[B, T, T] bool: whether the token of the row (dim 1) sees that of the column (dim 2)."""
        query, key = self.segment[:, :, None], self.segment[:, None, :]
        return (key >= 0) & ((key == 0) | (key == query))

    def bias(self, dtype: torch.dtype) -> Tensor:
        """[B, 1, T, T], what is added to attention's scores: nothing, or so little that nothing is seen."""
        hidden = ~self.may_attend()[:, None]
        return torch.zeros_like(hidden, dtype=dtype).masked_fill_(hidden, -1e9)


def pack(stories: Sequence[Sequence[int]], goals: Sequence[Sequence[Sequence[int]]], cls: int, sep: int) -> Packed:
    """Token ids of B stories and of each one's goals (without special tokens) as one batch, padded on the right."""
    ids, positions, segments, goal_rows, goal_columns = [], [], [], [], []
    for row, (story, row_goals) in enumerate(zip(stories, goals, strict=True)):
        parts = [[cls, *story, sep], *([cls, *goal, sep] for goal in row_goals)]
        column = len(parts[0])
        for part in parts[1:]:
            goal_rows.append(row)
            goal_columns.append(column)
            column += len(part)
        ids.append(torch.tensor([token for part in parts for token in part]))
        starts = [0] + [MAX_STORY_TOKENS] * len(row_goals)
        positions.append(
            torch.tensor([s + at for s, part in zip(starts, parts, strict=True) for at in range(len(part))])
        )
        segments.append(torch.tensor([index for index, part in enumerate(parts) for _ in part]))
    pad = nn.utils.rnn.pad_sequence
    segment = pad(segments, batch_first=True, padding_value=-1)
    return Packed(
        pad(ids, batch_first=True),
        pad(positions, batch_first=True),
        segment,
        torch.tensor(goal_rows, dtype=torch.long),
        torch.tensor(goal_columns, dtype=torch.long),
        (segment.flatten() >= 0).nonzero().flatten(),
    )


class Layer(nn.Module):
    """A transformer layer with normalisation after each residual sum, as in BERT."""

    def __init__(self, width: int):
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm_1 = nn.LayerNorm(width, eps=1e-12)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.norm_2 = nn.LayerNorm(width, eps=1e-12)

    def forward(self, x: Tensor, batches: Sequence[Packed], biases: Sequence[Tensor], answer: bool = False) -> Tensor:
        """[R, H], the batches' tokens without padding, to [R, H], or to [N, H] at the goals for the `answer`.

        Args:
            biases: of each batch's attention, [B, 1, T, T], added to its scores.
        """
        parts = self.qkv(x).split([len(batch.real) for batch in batches])
        attended = [self._attend(*each) for each in zip(parts, batches, biases, strict=True)]
        if answer:
            own = x.split([len(part) for part in parts])
            attended = [batch.at_goals(part) for batch, part in zip(batches, attended, strict=True)]
            x = _joined([batch.at_goals(batch.padded(part)) for batch, part in zip(batches, own, strict=True)])
        else:
            attended = [batch.unpadded(part) for batch, part in zip(batches, attended, strict=True)]
        x = self.norm_1(x + self.out(_joined(attended)))
        return self.norm_2(x + self.down(F.gelu(self.up(x))))

    def _attend(self, qkv: Tensor, batch: Packed, bias: Tensor) -> Tensor:
        """[R, 3 H] of one batch to [B T, H]."""
        width = qkv.shape[-1] // 3
        q, k, v = batch.padded(qkv).view(*batch.ids.shape, 3, HEADS, width // HEADS).permute(2, 0, 3, 1, 4)
        weights = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(width // HEADS) + bias, dim=-1)
        return (weights @ v).transpose(1, 2).reshape(-1, width)


class Reader(nn.Module):
    """The encoder and its answer: a log-odds for each goal."""

    def __init__(self, width: int = 384, layers: int = 6, vocabulary: int = 30522):
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        self.places = nn.Embedding(MAX_POSITIONS, width)
        self.kinds = nn.Embedding(2, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.layers = nn.ModuleList([Layer(width) for _ in range(layers)])
        self.pool = nn.Linear(width, width)
        self.answer = nn.Linear(width, 1)

    def forward(self, *batches: Packed) -> Tensor:
        """Log-odds [N] that each goal has happened, of one batch after the other.

        Linear layers read the tokens of all batches at once, attention each batch by itself. Batches of one row length
        each have no padding, and large products all the same.
        """
        ids, positions, segment = (
            _joined([batch.unpadded(part(batch).flatten()) for batch in batches])
            for part in (attrgetter("ids"), attrgetter("positions"), attrgetter("segment"))
        )
        x = self.norm(self.words(ids) + self.places(positions) + self.kinds((segment > 0).long()))
        biases = [batch.bias(x.dtype) for batch in batches]
        for layer in self.layers[:-1]:
            x = layer(x, batches, biases)
        answers = self.layers[-1](x, batches, biases, answer=True)
        return self.answer(torch.tanh(self.pool(answers))).squeeze(1)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(parts)) if len(parts) > 1 else parts[0]


def from_bert(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights of a transformers BertModel under this network's names (without `answer`)."""
    emb = "embeddings."
    new = {
        "words.weight": state[emb + "word_embeddings.weight"],
        "places.weight": state[emb + "position_embeddings.weight"],
        "kinds.weight": state[emb + "token_type_embeddings.weight"],
        "norm.weight": state[emb + "LayerNorm.weight"],
        "norm.bias": state[emb + "LayerNorm.bias"],
    }
    parts = {
        "out": "attention.output.dense",
        "norm_1": "attention.output.LayerNorm",
        "up": "intermediate.dense",
        "down": "output.dense",
        "norm_2": "output.LayerNorm",
    }
    depth = 1 + max(int(name.split(".")[2]) for name in state if name.startswith("encoder.layer."))
    for layer in range(depth):
        old = f"encoder.layer.{layer}."
        for kind in ("weight", "bias"):
            heads = [state[f"{old}attention.self.{part}.{kind}"] for part in ("query", "key", "value")]
            new[f"layers.{layer}.qkv.{kind}"] = torch.cat(heads)
            for name, source in parts.items():
                new[f"layers.{layer}.{name}.{kind}"] = state[f"{old}{source}.{kind}"]
    for kind in ("weight", "bias"):
        new[f"pool.{kind}"] = state[f"pooler.dense.{kind}"]
    return new
