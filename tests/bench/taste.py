"""How fast rewards.taste learns a writer: simulated raters of five tastes, one answer in five flipped.

    python -m tests.bench.taste [DATA] [--quick]

Each rater judges pairs of one half of the stories of rewards/data/tastes.jsonl by a reader's marks; agreement is
measured on pairs of the other half whose marks differ by at least two, without flips. The next pair is drawn at random,
or is the one of a thousand random ones that rewards.taste.information puts first. And what the shipped preference model
loses by it on general pairs, of which it was fitted on all, these too: it is the taste that has not seen them.
"""

import argparse
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rewards import preference_data
from rewards.base import StoryText
from rewards.preference import load_shipped, shipped_weights
from rewards.preference_data import Pair, is_held_out
from rewards.taste import Taste, counted, information, taste_features
from storyrl import console
from storyrl.files import read_jsonl
from tests.bench import metrics

TASTES = ("dialogue", "plain", "happy", "vivid", "action")
CHOICES = (10, 25, 50, 100, 200)
_NOISE, _CLEAR = 0.2, 2  # share of flipped answers; difference of marks that counts
_REFIT, _CANDIDATES = 5, 1000
_LAST_RANDOM = 400  # choices, to see when random ones have caught up
_GENERAL_SEEDS = 2
_ONE_KIND_AFTER = 50  # choices

Curve = dict[int, float]  # agreement by number of choices


@dataclass(frozen=True)
class Read:
    """Stories as the taste sees them: features [B, G] and shipped scores [B]."""

    features: Tensor
    general: Tensor

    @classmethod
    def of(cls, stories: Sequence[StoryText]) -> "Read":
        return cls(taste_features(stories), load_shipped(shipped_weights()).scores(stories))

    def gaps(self, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """Differences of features and of what counts of the shipped scores, for places [N, 2]."""
        first, second = pairs.T
        counts = counted(self.general)
        return self.features[first] - self.features[second], counts[first] - counts[second]


@dataclass(frozen=True)
class Rater:
    """Somebody's marks [B] of stories, and which of these are asked about."""

    stories: Read
    marks: Tensor
    asked: Tensor  # places
    unseen: Tensor  # places
    generator: torch.Generator

    @classmethod
    def draw(cls, stories: Read, marks: Tensor, seed: int) -> "Rater":
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(marks), generator=generator)
        return cls(stories, marks, order[: len(order) // 2], order[len(order) // 2 :], generator)

    def pairs(self, count: int) -> Tensor:
        """Random pairs with different marks, places [count, 2]."""
        places = self.asked[torch.randint(len(self.asked), (3 * count + 20, 2), generator=self.generator)]
        return places[self.marks[places[:, 0]] != self.marks[places[:, 1]]][:count]

    def learn(self, last: int, active: bool) -> Iterator[tuple[int, Taste]]:
        """The number of choices and the taste after every few of them."""
        chosen, answers, taste = torch.zeros(0, 2, dtype=torch.long), torch.zeros(0), Taste.unknown()
        while len(answers) < last:
            pairs = self.pairs(_CANDIDATES if active else 1)
            best = pairs[information(taste, *self.stories.gaps(pairs)).argmax()]
            right = self.marks[best[0]] > self.marks[best[1]]
            flipped = torch.rand((), generator=self.generator) < _NOISE
            chosen, answers = torch.cat([chosen, best[None]]), torch.cat([answers, (right != flipped).float()[None]])
            if len(answers) % _REFIT == 0:
                taste = Taste.fit(*self.stories.gaps(chosen), answers, torch.ones(len(answers)))
                yield len(answers), taste

    def agreement(self, scores: Tensor, among: Tensor | None = None) -> float:
        """Share of clear pairs of unseen stories, or of those in the mask [B], that the scores [B] order as marked."""
        places = self.unseen if among is None else self.unseen[among[self.unseen]]
        marks, scores = self.marks[places], scores[places]
        is_clear = marks[:, None] - marks >= _CLEAR
        return float((scores[:, None] > scores)[is_clear].float().mean())


def taste_curves(quick: bool = False, data: Path | None = None, first_seed: int = 0) -> dict[str, Any]:
    """Curves of agreement with 95 % intervals by bootstrap over seeds (for the mean: over tastes and seeds).

    Args:
        quick: two seeds instead of eight.
        data: the data folder, for pairs of LAMP among the general ones.
        first_seed: the reported figures are those from 0; tune with others.
    """
    rows = [row for _, row in read_jsonl(Path(str(resources.files("rewards").joinpath("data", "tastes.jsonl"))))]
    stories = Read.of([StoryText(row["text"], "", row["premise"]) for row in rows])
    curves: dict[str, dict[str, list[Curve]]] = {way: {taste: [] for taste in TASTES} for way in ("random", "active")}
    learned: dict[int, list[Taste]] = {step: [] for step in CHOICES}
    is_written, shipped = written(rows), []
    one_kind: dict[str, dict[str, list[float]]] = {"written": {}, "the model's": {}}
    for name in TASTES:
        marks = torch.tensor([row[name] for row in rows])
        for seed in range(first_seed, first_seed + (2 if quick else 8)):
            shipped.append(Rater.draw(stories, marks, seed).agreement(stories.general))
            for way, of_taste in curves.items():
                rater, curve = Rater.draw(stories, marks, seed), {}
                for step, taste in rater.learn(_LAST_RANDOM if way == "random" else CHOICES[-1], way == "active"):
                    curve[step] = rater.agreement(taste.combine(stories.features, stories.general))
                    if way == "active" and step in CHOICES and seed < first_seed + _GENERAL_SEEDS:
                        learned[step].append(taste)
                    if way == "active" and step == _ONE_KIND_AFTER:
                        scores = taste.combine(stories.features, stories.general)
                        for kind, among in (("written", is_written), ("the model's", ~is_written)):
                            one_kind[kind].setdefault(name, []).append(rater.agreement(scores, among))
                of_taste[name].append(curve)
    return {
        "choices": list(CHOICES),
        "shipped": float(np.mean(shipped)),
        **{way: _summaries(of_taste) for way, of_taste in curves.items()},
        "one_kind": {
            kind: {name: float(np.mean(values)) for name, values in of_taste.items()}
            | {"mean": float(np.mean([v for values in of_taste.values() for v in values]))}
            for kind, of_taste in one_kind.items()
        },
        "general": _general(general_pairs(data), learned),
        "saved": saved(*(_mean([c for rows in curves[way].values() for c in rows]) for way in ("random", "active"))),
    }


def written(rows: Sequence[Mapping[str, Any]]) -> Tensor:
    """Which stories people wrote, [B] bool; the others are the model's."""
    known = " ".join(" ".join(preference_data.written_texts()).split())
    return torch.tensor([" ".join(row["text"].split())[:120] in known for row in rows])


def _summaries(curves: Mapping[str, Sequence[Curve]]) -> dict[str, dict[str, list[float]]]:
    groups = {**curves, "mean": [curve for of_taste in curves.values() for curve in of_taste]}
    result = {}
    for name, group in groups.items():
        values = [
            metrics.estimate(metrics.mean(np.array([c[s] for c in group])), np.arange(len(group))) for s in CHOICES
        ]
        result[name] = {key: [v[k] for v in values] for key, k in (("mean", "value"), ("low", "low"), ("high", "high"))}
    return result


def _mean(curves: Sequence[Curve]) -> Curve:
    return {step: float(np.mean([curve[step] for curve in curves])) for step in curves[0]}


def saved(by_chance: Curve, active: Curve) -> dict[int, float | None]:
    """How many random choices reach what N active ones reach, by straight lines between the refits; None: more than
    were tried."""
    result: dict[int, float | None] = {}
    for step in CHOICES:
        result[step], before, level = None, 0, 0.0
        for at, value in by_chance.items():
            if value >= active[step]:
                result[step] = before + (at - before) * (active[step] - level) / (value - level)
                break
            before, level = at, value
    return result


def general_pairs(data: Path | None) -> list[Pair]:
    """The held-out fifth of authored, policy and (with a data folder) LAMP pairs."""
    pairs = [*preference_data.authored_pairs(), *preference_data.against_policy(random.Random(0))]
    return [pair for pair in pairs + (preference_data.lamp_pairs(data) if data else []) if is_held_out(pair.group)]


def _general(pairs: Sequence[Pair], learned: Mapping[int, Sequence[Taste]]) -> dict[str, Any]:
    """Accuracy of the shipped model and with tastes, all and by source; what is lost has an interval over groups."""
    read = Read.of([StoryText(text, "", pair.premise) for pair in pairs for text in (pair.chosen, pair.rejected)])

    def right(scores: Tensor) -> np.ndarray:
        return (scores[::2] > scores[1::2]).double().numpy()

    shipped = right(read.general)
    after = {
        step: np.mean([right(taste.combine(read.features, read.general)) for taste in tastes], axis=0)
        for step, tastes in learned.items()
    }
    groups, sources = [pair.group for pair in pairs], np.array([pair.source for pair in pairs])
    return {
        "shipped": float(shipped.mean()),
        "after": {step: float(hits.mean()) for step, hits in after.items()},
        "lost": {step: metrics.estimate(metrics.mean(shipped - hits), groups) for step, hits in after.items()},
        "n": len(pairs),
        "sources": {
            source: {
                "n": int((sources == source).sum()),
                "shipped": float(shipped[sources == source].mean()),
                "after": {step: float(hits[sources == source].mean()) for step, hits in after.items()},
            }
            for source in dict.fromkeys(sources.tolist())
        },
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path, nargs="?", help="folder with lamp/")
    parser.add_argument("--quick", action="store_true", help="two seeds instead of eight")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    figures = taste_curves(options.quick, options.data)
    print(f"agreement on unseen pairs; with no choices {figures['shipped']:.3f}")
    print("choices          " + "".join(f"{step:>20}" for step in figures["choices"]))
    for way in ("random", "active"):
        for name, curve in figures[way].items():
            rows = zip(curve["mean"], curve["low"], curve["high"], strict=True)
            print(f"{way:7}{name:10}" + "".join(f"  {m:.3f} ({low:.3f}-{high:.3f})" for m, low, high in rows))
    print("random choices that reach the same:", figures["saved"])
    for kind, values in figures["one_kind"].items():
        print(
            f"after {_ONE_KIND_AFTER} active choices, both stories {kind}: "
            + "  ".join(f"{name} {value:.2f}" for name, value in values.items())
        )
    general = figures["general"]
    for name, row in {"all": general, **general["sources"]}.items():
        after = " ".join(f"{step}: {value:.3f}" for step, value in row["after"].items())
        print(f"general pairs, {name} ({row['n']}): shipped {row['shipped']:.3f}, after {after}")
    print("lost:", {step: " ".join(f"{v:+.3f}" for v in row.values()) for step, row in general["lost"].items()})
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2), encoding="utf-8")


if __name__ == "__main__":
    console.set_up(quiet=False, threads=None)
    main()
