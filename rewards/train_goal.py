"""Trains the goal classifier: `python -m rewards.train_goal DATA_FOLDER` (40 minutes on two cores).

General entailment first: short premises, read whole, many of them minimal pairs. Then stories, read paragraph by
paragraph as in scoring, twice: those of the default policy, of a tuned one and those that an earlier classifier helped
to choose, those of which one paragraph was edited, and twins in their manner. All weights train but the word and
position embeddings. At the end a scale and a shift are fitted to held-out cases (Platt 1999), and
weights/goal.safetensors is written. Seeds are fixed. With `--work FOLDER` the network is kept there after each stage,
and a broken-off training goes on from it.
"""

import argparse
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch.nn import functional as F

from rewards import goal_data
from rewards.files import read_tensors, write_tensors
from rewards.goal import Tokens, bundled_reader, passages, save_reader, shipped_weights
from rewards.goal_data import Case
from rewards.reader import Reader, pack
from storyrl import console


@dataclass(frozen=True)
class Stage:
    """A part of the training."""

    name: str
    epochs: int
    batch_tokens: int  # padding included
    learning_rate: float
    whole: bool  # read a case's text as one piece instead of by paragraphs


_GENERAL = Stage("general", 1, 1500, 1e-4, whole=True)
_STORIES = Stage("stories", 2, 4000, 1.5e-4, whole=False)
_WARM_UP = 0.06  # share of a stage's steps


def main() -> None:
    """Train, calibrate, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path, help="folder with nli/ (the sets are named in rewards/weights/README.md)")
    parser.add_argument("--work", type=Path, help="keep the network here after each stage, and go on from there")
    parser.add_argument("--out", type=Path, default=shipped_weights())
    options = parser.parse_args()
    torch.manual_seed(0)
    tokens, reader = Tokens(), bundled_reader()
    reader.words.requires_grad_(False)
    reader.places.requires_grad_(False)
    run_stage(_GENERAL, reader, tokens, partial(goal_data.general_entailment, options.data), options.work)
    run_stage(_STORIES, reader, tokens, goal_data.training_stories, options.work)
    held_out = [Item.of(case, tokens) for case in goal_data.calibration_cases()]
    save_reader(reader, calibrate(reader, held_out), options.out)


def run_stage(stage: Stage, reader: Reader, tokens: Tokens, cases: Callable[[], list[Case]], work: Path | None) -> None:
    """Train the reader, or read the weights that `work` keeps of this stage."""
    kept = work / f"{stage.name}.safetensors" if work else None
    if kept and kept.exists():
        reader.load_state_dict(read_tensors(kept))
        return
    texts = cases()
    console.say(f"{stage.name}: {len(texts)} texts, {sum(len(case.goals) for case in texts)} goals")
    train(reader, [Item.of(case, tokens, stage.whole) for case in texts], stage)
    if kept:
        write_tensors(reader.state_dict(), kept)


@dataclass(frozen=True)
class Item:
    """A case as token ids: its pieces, each read with all of its goals."""

    pieces: list[list[int]]
    goals: list[list[int]]
    targets: list[float]
    cls: int
    sep: int

    @classmethod
    def of(cls, case: Case, tokens: Tokens, whole: bool = False) -> "Item":
        """Tokens of a case."""
        texts = [case.story] if whole else passages(case.story)
        pieces = [tokens.piece(text) for text in texts]
        goals = [tokens.goal(goal) for goal in case.goals]
        return cls(pieces, goals, [float(reached) for reached in case.reached], tokens.cls, tokens.sep)

    def row_length(self) -> int:
        """Tokens of the longest piece with all goals."""
        return max(map(len, self.pieces)) + 2 + sum(len(goal) + 2 for goal in self.goals)


def train(reader: Reader, items: Sequence[Item], stage: Stage, seed: int = 0) -> None:
    """Binary cross-entropy over all goals, AdamW, warm-up and linear decay to zero; changes `reader`.

    A goal's log-odds are the log sum exp of those of the pieces: the maximum, but with gradient for all of them.
    """
    rng = random.Random(seed)
    batches = [batch for _ in range(stage.epochs) for batch in batched(items, stage.batch_tokens, rng)]
    optimiser = torch.optim.AdamW(
        [parameter for parameter in reader.parameters() if parameter.requires_grad],
        lr=stage.learning_rate,
        betas=(0.9, 0.98),
        weight_decay=0.01,
        fused=True,
    )
    warm_up = max(1, int(_WARM_UP * len(batches)))
    mean_loss, start = 0.7, time.monotonic()
    reader.train()
    with console.progress(f"goal classifier, {stage.name}", len(batches)) as update:
        for step, batch in enumerate(batches):
            fraction = min((step + 1) / warm_up, (len(batches) - step) / max(1, len(batches) - warm_up))
            optimiser.param_groups[0]["lr"] = stage.learning_rate * fraction
            logits = torch.cat([torch.logsumexp(part, dim=0) for part in answers(reader, batch)])
            loss = F.binary_cross_entropy_with_logits(logits, targets(batch))
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(reader.parameters(), 1.0)
            optimiser.step()
            mean_loss += 0.02 * (loss.item() - mean_loss)
            update(step + 1, f"loss {mean_loss:.3f}")
            if step % 25 == 0:
                console.say(
                    f"{stage.name} {step}/{len(batches)}: loss {mean_loss:.3f}, {time.monotonic() - start:.0f} s"
                )
    reader.eval()


def batched(items: Sequence[Item], size: int, rng: random.Random) -> list[list[Item]]:
    """The items in batches of like length and at most `size` tokens, in random order."""
    batches: list[list[Item]] = [[]]
    rows = longest = 0
    for item in sorted(items, key=lambda item: item.row_length() + 20 * rng.random()):
        longest = max(longest, item.row_length())
        rows += len(item.pieces)
        if batches[-1] and longest * rows > size:
            batches.append([])
            longest, rows = item.row_length(), len(item.pieces)
        batches[-1].append(item)
    rng.shuffle(batches)
    return batches


def answers(reader: Reader, batch: Sequence[Item]) -> list[torch.Tensor]:
    """Log-odds of each item's goals in each of its pieces, [pieces, goals] an item."""
    pieces = [piece for item in batch for piece in item.pieces]
    goals = [item.goals for item in batch for _ in item.pieces]
    logits = reader(pack(pieces, goals, batch[0].cls, batch[0].sep))
    parts = logits.split([len(item.pieces) * len(item.goals) for item in batch])
    return [part.view(len(item.pieces), -1) for item, part in zip(batch, parts, strict=True)]


def targets(batch: Sequence[Item]) -> torch.Tensor:
    """1.0 where the goal has happened."""
    return torch.tensor([target for item in batch for target in item.targets])


@torch.no_grad()
def predictions(reader: Reader, items: Sequence[Item]) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-odds, by the clearest piece as in scoring, and targets of all goals, in the order of the items."""
    return torch.cat([answers(reader, [item])[0].amax(dim=0) for item in items]), targets(items)


def calibrate(reader: Reader, items: Sequence[Item]) -> tuple[float, float]:
    """Scale and shift of the log-odds that make the targets of `items` likeliest (Platt 1999)."""
    logits, labels = predictions(reader, items)
    numbers = torch.tensor([1.0, 0.0], requires_grad=True)
    optimiser = torch.optim.LBFGS([numbers], max_iter=100)

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        value = F.binary_cross_entropy_with_logits(numbers[0] * logits + numbers[1], labels)
        value.backward()
        return value

    optimiser.step(loss)
    scale, shift = numbers.tolist()
    return scale, shift


if __name__ == "__main__":
    console.set_up(quiet=False, threads=None)
    main()
