"""Goal score: the probability that the event which the goal states has happened in the story.

A small encoder (rewards/reader.py) reads each paragraph together with the goal, as SummaC does with sentences (Laban et
al. 2022), and the story has reached the goal when one of its paragraphs tells it. It was trained by
rewards/train_goal.py; weights/README.md says on what, and how well it does. What takes several paragraphs to see (an
event undone later, or implied by what follows) it does not see: tried on whole stories this small network learned
nothing but their length.
"""

import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor

from prompts.template import split_sentences
from rewards.base import Scorer, StoryText
from rewards.encoder import tokenizer
from rewards.files import read_tensors, write_tensors
from rewards.int8 import quantise
from rewards.reader import MAX_GOAL_TOKENS, MAX_STORY_TOKENS, Reader, from_bert, pack
from storyrl import models
from storyrl.errors import InputError
from storyrl.packed import pack as pack_layers
from storyrl.story import Story, prose

_BATCH_TOKENS = 1024
_REMEMBERED = 50_000  # pairs of passage and goal
_MOST_SENTENCES, _MOST_WORDS = 3, 60  # of a passage
_SPEAKER = re.compile(r"""["”],? (said [^."”]{1,60}\.)$""")
_ONLY_SPEAKER = re.compile(r"""["”\s]*said [^."”]{1,60}\.""")
_FROZEN = ("words.weight", "places.weight")  # those of the sentence encoder, not stored again

T = TypeVar("T")


class GoalReached(Scorer):
    """P(the goal's event has happened | story, goal), 0 to 1, calibrated; 0 for a story without words or goal."""

    name = "goal"

    def __init__(self, weights: Path | None = None, device: str = "auto"):
        self._device = models.pick_device(device)
        self.tokens = Tokens()
        self.reader, self._calibration = load_reader(weights or shipped_weights())
        self.reader.to(self._device).eval()
        if self._device == "cpu":
            quantise(self.reader)
        pack_layers(self.reader)
        self._known: OrderedDict[tuple[str, str], float] = OrderedDict()

    def score(self, stories: Sequence[StoryText]) -> list[float]:
        """The probability for each story."""
        pieces = [passages(story.text) if story.goal.strip() else [] for story in stories]
        logits = iter(self._read([(p, story.goal) for own, story in zip(pieces, stories, strict=True) for p in own]))
        rows = [torch.tensor([next(logits) for _ in own]) for own in pieces]
        return [float(self.probability(row.max())) if len(row) else 0.0 for row in rows]

    def probability(self, log_odds: Tensor) -> Tensor:
        """The calibrated probability of the network's log-odds."""
        scale, shift = self._calibration
        return torch.sigmoid(scale * log_odds + shift)

    @torch.no_grad()
    def _read(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """The network's log-odds for pairs of passage and goal, nats; what was read lately is not read again."""
        ids = {
            pair: (self.tokens.piece(pair[0]), self.tokens.goal(pair[1]))
            for pair in dict.fromkeys(pairs)
            if pair not in self._known
        }
        for chunk in _chunks({pair: sum(map(len, tokens)) + 4 for pair, tokens in ids.items()}):
            batches = [
                pack([ids[p][0] for p in rows], [[ids[p][1]] for p in rows], self.tokens.cls, self.tokens.sep)
                for rows in chunk
            ]
            log_odds = self.reader(*(batch.to(self._device) for batch in batches)).tolist()
            self._known.update(zip((pair for rows in chunk for pair in rows), log_odds, strict=True))
        found = [self._known[pair] for pair in pairs]
        for pair in pairs:
            self._known.move_to_end(pair)
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return found

    def progress(self, story: Story) -> list[float]:
        """The probability after each turn of the story, [turns]: the progress meter, at the price of one reading."""
        prompt = story.prompt
        return self.score(
            [
                StoryText(prose(story.turns[:count]), prompt.goal, prompt.premise, finished=False)
                for count in range(1, len(story.turns) + 1)
            ]
        )


def passages(text: str) -> list[str]:
    """The pieces that are read: the story's paragraphs, long ones in parts, those of a speech each with its speaker."""
    found = []
    for paragraph in text.split("\n"):
        speaker = _SPEAKER.search(paragraph.strip())
        told = [sentence for sentence in split_sentences(paragraph) if not _ONLY_SPEAKER.fullmatch(sentence)]
        for part in _parts(told):
            found.append(f"{part} {speaker[1]}" if speaker and not part.endswith(speaker[1]) else part)
    return found


def _parts(told: Sequence[str]) -> Iterator[str]:
    """Sentences joined, at most _MOST_SENTENCES and, but for a single long one, _MOST_WORDS at a time."""
    part: list[str] = []
    for sentence in told:
        if part and (len(part) == _MOST_SENTENCES or len(" ".join([*part, sentence]).split()) > _MOST_WORDS):
            yield " ".join(part)
            part = []
        part.append(sentence)
    if part:
        yield " ".join(part)


def _chunks(lengths: Mapping[T, int]) -> Iterator[list[list[T]]]:
    """Rows, given with their lengths, in chunks of about _BATCH_TOKENS; in a chunk, rows of one length together.

    So none is padded: a row's answer is the same to the last bit whatever else is read.
    """
    chunk: dict[int, list[T]] = {}
    tokens = 0
    for row in sorted(lengths, key=lengths.__getitem__):
        if chunk and tokens + lengths[row] > _BATCH_TOKENS:
            yield list(chunk.values())
            chunk, tokens = {}, 0
        chunk.setdefault(lengths[row], []).append(row)
        tokens += lengths[row]
    if chunk:
        yield list(chunk.values())


class Tokens:
    """Word pieces of passages and goals, without the special ones."""

    def __init__(self) -> None:
        self._tokenizer = tokenizer()
        self.cls, self.sep = int(self._tokenizer.cls_token_id), int(self._tokenizer.sep_token_id)

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def goal(self, text: str) -> list[int]:
        """Ids of a goal, cut to what the network takes."""
        return self._ids(text)[: MAX_GOAL_TOKENS - 2]

    def piece(self, text: str) -> list[int]:
        """Ids of a passage, cut to what the network takes."""
        return self._ids(text)[: MAX_STORY_TOKENS - 2]


# --- weights --------------------------------------------------------------------------------------------------------


def shipped_weights() -> Path:
    """The weights inside the package."""
    return Path(str(resources.files("rewards").joinpath("weights", "goal.safetensors")))


def bundled_reader() -> Reader:
    """The network with the sentence encoder's weights: where training starts."""
    reader = Reader()
    state = from_bert(load_file(models.pull("minilm") / "model.safetensors"))
    reader.load_state_dict(state, strict=False)
    return reader


def save_reader(reader: Reader, calibration: tuple[float, float], path: Path) -> None:
    """Write the trained weights, matrices as 8-bit integers with one scale a row: a quarter of the size."""
    state: dict[str, Tensor] = {}
    for name, tensor in reader.state_dict().items():
        if name in _FROZEN:
            continue
        if tensor.dim() == 2 and tensor.shape[0] > 1:
            scale = tensor.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / 127
            state[name] = (tensor / scale).round().to(torch.int8)
            state[f"{name}.scale"] = scale
        else:
            state[name] = tensor.contiguous()
    write_tensors(state | {"calibration": torch.tensor(calibration)}, path)


@cache
def load_reader(path: Path) -> tuple[Reader, tuple[float, float]]:
    """The trained network and its calibration (scale, shift).

    Raises:
        InputError: no such weights, or not this network's.
    """
    state = read_tensors(path)
    try:
        scale, shift = state.pop("calibration").tolist()
        scales = {name: state.pop(name) for name in list(state) if name.endswith(".scale")}
        for name, rows in scales.items():
            state[name.removesuffix(".scale")] = state[name.removesuffix(".scale")].float() * rows
        reader = bundled_reader()
        missing = set(reader.load_state_dict(state, strict=False).missing_keys) - set(_FROZEN)
        if missing:
            raise KeyError(sorted(missing)[0])
    except (KeyError, RuntimeError) as error:
        raise InputError(f"{path}: no goal weights ({error}); train some with python -m rewards.train_goal") from error
    return reader, (scale, shift)
