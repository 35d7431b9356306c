"""One writer's taste, learned from few choices: a Bayesian logistic regression beside the shipped preference model.

    r_taste(y) = counted(r(y)) + delta . g(y),    delta ~ Normal(0, prior)

A story has to be good enough before taste decides: `counted` is steep in the shipped score r below a threshold and
nearly level above it. g are measures of style that a reader would notice and sixteen directions of
meaning (principal components of sentence embeddings: of the story's mean, and of its last two sentences, where it shows
how things end), all in deviations among stories. The posterior is taken as normal around its mode (Laplace; Bishop
2006, section 4.5). The prior keeps delta small until the choices ask for it, and the posterior's spread says which pair
is worth asking next. Differences of r_taste are log-odds (nats) that the writer prefers one story.
"""

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import softplus

from rewards.base import StoryText
from rewards.encoder import WIDTH, SentenceEncoder, shared_encoder
from rewards.files import read_tensors, write_tensors
from rewards.preference import load_shipped, shipped_weights
from rewards.style import NAMES
from storyrl.errors import InputError
from storyrl.files import read_text

MEASURES = (
    "distinct words in 100",
    "most frequent word",
    "word length",
    "sentence length",
    "sentence spread",
    "short sentences",
    "speech",
    "lines of speech",
    "commas",
    "questions",
    "exclamations",
    "first and second person",
    "hedges",
    "bright words",
    "dark words",
    "bright end",
    "dark end",
    "words of the senses",
    "words of movement",
    "usual word pairs",
)
_COMPONENTS = 8  # of the mean, and as many of the end
_FURTHEST = 1.5  # deviations; what is further counts as this, so that no measure can be driven up for ever
_PRIOR_STYLE, _PRIOR_MEANING = 0.1, 0.05  # standard deviations of delta
_LONGEST = 0.25  # length of delta in a score, however many choices there are
_GOOD_ENOUGH = -1.0  # deviations of the shipped score from that of the default policy's usual story
_BELOW, _SHARPNESS = 2.5, 1.5  # nats that a deviation below counts, and how sharply that sets in
_AT_ONCE = 64  # stories
_FILE = "taste.safetensors"


@dataclass(frozen=True)
class Choice:
    """A judgement of two stories: `first_better` is 1, 0, or 0.5 for a tie; `weight` how much it counts."""

    first: StoryText
    second: StoryText
    first_better: float
    weight: float = 1.0


@dataclass(frozen=True)
class Directions:
    """How stories differ: measures of style with their means and deviations over reference stories, and principal
    components of embeddings over the same, [C, 384] each, with theirs."""

    mean_basis: Tensor
    end_basis: Tensor
    centre: Tensor  # [2, 384]
    deviation: Tensor  # [2 C]
    style_mean: Tensor  # [M]
    style_deviation: Tensor  # [M]

    @classmethod
    def fit(cls, texts: Sequence[str], encoder: SentenceEncoder) -> "Directions":
        """The directions in which the stories of `texts` differ most; the shipped weights must be there already."""
        means, ends = _vectors(texts, encoder)
        centre = torch.stack([means.mean(dim=0), ends.mean(dim=0)])
        bases = [
            torch.linalg.svd(rows - middle, full_matrices=False).Vh[:_COMPONENTS]
            for rows, middle in zip((means, ends), centre, strict=True)
        ]
        raw = torch.cat([(means - centre[0]) @ bases[0].T, (ends - centre[1]) @ bases[1].T], dim=1)
        style = _style([StoryText(text) for text in texts])
        return cls(bases[0], bases[1], centre, _deviation(raw), style.mean(dim=0), _deviation(style))

    def __call__(self, stories: Sequence[StoryText], encoder: SentenceEncoder) -> Tensor:
        """[B, M + 2 C] in deviations."""
        means, ends = _vectors([story.text for story in stories], encoder)
        raw = torch.cat([(means - self.centre[0]) @ self.mean_basis.T, (ends - self.centre[1]) @ self.end_basis.T], 1)
        return torch.cat([(_style(stories) - self.style_mean) / self.style_deviation, raw / self.deviation], dim=1)


def _deviation(rows: Tensor) -> Tensor:
    return rows.std(dim=0).clamp(min=1e-6)


def _style(stories: Sequence[StoryText]) -> Tensor:
    """The measures of style, [B, M]."""
    return load_shipped(shipped_weights()).features.scaled(stories)[:, [NAMES.index(name) for name in MEASURES]]


def _vectors(texts: Sequence[str], encoder: SentenceEncoder) -> tuple[Tensor, Tensor]:
    """Mean sentence vector and mean of the last two, [B, 384] each; zeros for an empty text."""
    rows = [v if len(v) else torch.zeros(1, WIDTH) for v in encoder.encode_stories(texts)]
    return torch.stack([v.mean(dim=0) for v in rows]), torch.stack([v[-2:].mean(dim=0) for v in rows])


def directions_file() -> Path:
    """The shipped directions."""
    return shipped_weights().with_name("directions.safetensors")


@functools.cache
def shipped_directions() -> Directions:
    """The directions that were fitted on written stories and samples of the default policy."""
    return Directions(**read_tensors(directions_file()))


def taste_features(stories: Sequence[StoryText], encoder: SentenceEncoder | None = None) -> Tensor:
    """g of each story, [B, G]: measures of style, then directions of meaning, all in deviations among stories."""
    return shipped_directions()(stories, encoder or shared_encoder()).clamp(-_FURTHEST, _FURTHEST)


@functools.cache
def _usual() -> tuple[float, float]:
    """Mean and deviation of the shipped score on the default policy's stories."""
    row = json.loads(read_text(shipped_weights().with_name("standard.json")))["preference"]
    return row["mean"], row["deviation"]


def counted(general: Tensor) -> Tensor:
    """What of shipped scores counts beside a taste: much where a story is not good enough yet, above that hardly any.

    The default policy's usual story keeps its score. A softplus, in deviations, because the level and scale of shipped
    scores are no more than how the training went.
    """
    mean, deviation = _usual()
    shipped = (general - mean) / deviation

    def lacking(scores: Tensor) -> Tensor:
        return softplus(_GOOD_ENOUGH - scores, beta=_SHARPNESS)

    return mean + _BELOW * (lacking(torch.zeros(1)) - lacking(shipped))


def prior_deviation() -> Tensor:
    """Standard deviation of each delta before any choice, [G]."""
    return torch.tensor([_PRIOR_STYLE] * len(MEASURES) + [_PRIOR_MEANING] * (2 * _COMPONENTS))


@dataclass(frozen=True)
class Taste:
    """A writer's delta with its spread."""

    delta: Tensor  # [G]
    covariance: Tensor  # [G, G]
    choices: int = 0

    @classmethod
    def unknown(cls) -> "Taste":
        """The taste of somebody who has not chosen yet."""
        prior = prior_deviation()
        return cls(torch.zeros_like(prior), torch.diag(prior**2))

    @classmethod
    def learn(cls, choices: Sequence[Choice], update: Callable[..., object] = lambda done, total: None) -> "Taste":
        """The taste behind choices.

        Args:
            choices: at least one.
            update: called with how many of the `total` stories have been read.

        Raises:
            InputError: there are no choices.
        """
        if not choices:
            raise InputError("no choices to learn from; compare some stories first")
        places: dict[StoryText, int] = {}
        for choice in choices:
            for story in (choice.first, choice.second):
                places.setdefault(story, len(places))
        stories, g, r = list(places), [], []
        for start in range(0, len(stories), _AT_ONCE):
            part = stories[start : start + _AT_ONCE]
            g.append(taste_features(part))
            r.append(counted(load_shipped(shipped_weights()).scores(part)))
            update(start + len(part), total=len(stories))
        rows = torch.cat([torch.cat(g), torch.cat(r)[:, None]], dim=1)
        pairs = torch.tensor([[places[choice.first], places[choice.second]] for choice in choices])
        gaps = rows[pairs[:, 0]] - rows[pairs[:, 1]]
        return cls.fit(
            gaps[:, :-1],
            gaps[:, -1],
            torch.tensor([choice.first_better for choice in choices]),
            torch.tensor([choice.weight for choice in choices]),
        )

    @classmethod
    def fit(cls, gaps: Tensor, general: Tensor, first_better: Tensor, weights: Tensor) -> "Taste":
        """Mode and spread of delta by Newton's method.

        Args:
            gaps: [N, G] differences of g, first story less second.
            general: [N] differences of what of the shipped scores is `counted`.
            first_better: [N] 1, 0 or 0.5.
            weights: [N].
        """
        precision = torch.diag(prior_deviation().double() ** -2)
        gaps, offset = gaps.double(), general.double()
        delta = torch.zeros(gaps.shape[1], dtype=torch.float64)
        hessian = precision
        for _ in range(30):
            chance = torch.sigmoid(gaps @ delta + offset)
            gradient = gaps.T @ (weights * (first_better - chance)) - precision @ delta
            hessian = (gaps * (weights * chance * (1 - chance))[:, None]).T @ gaps + precision
            step = torch.linalg.solve(hessian, gradient)
            delta = delta + step
            if float(step.abs().max()) < 1e-8:
                break
        return cls(delta.float(), torch.linalg.inv(hessian).float(), len(gaps))

    def scores(self, stories: Sequence[StoryText], general: Tensor) -> Tensor:
        """r_taste of each story, [B], from its shipped scores [B]."""
        return self.combine(taste_features(stories), general)

    def combine(self, features: Tensor, general: Tensor) -> Tensor:
        """r_taste from g [B, G] and the shipped scores [B]."""
        shortened = self.delta * (_LONGEST / self.delta.norm().clamp(min=_LONGEST))
        return counted(general) + features @ shortened

    def save(self, folder: Path) -> Path:
        """Write `taste.safetensors` into `folder`, whole or not at all."""
        tensors = {"delta": self.delta, "covariance": self.covariance, "choices": torch.tensor(self.choices)}
        return write_tensors(tensors, folder / _FILE)

    @classmethod
    def load(cls, folder: Path) -> "Taste":
        """A taste that `save` wrote.

        Raises:
            InputError: no taste in the folder, or one of another version.
        """
        path = folder / _FILE
        tensors = read_tensors(path)
        if set(tensors) != {"delta", "covariance", "choices"} or len(tensors["delta"]) != len(prior_deviation()):
            raise InputError(f"{path}: was made by another version of storyrl; run `storyrl fit preference` again")
        return cls(tensors["delta"], tensors["covariance"], int(tensors["choices"]))


def information(taste: Taste, gaps: Tensor, general: Tensor) -> Tensor:
    """How much the answer to each pair would tell, [N] nats: BALD (Houlsby et al. 2011).

    The mutual information of the answer and delta, H(E p) - E H(p), for p = sigmoid(x) and x normal: high where the
    taste so far does not know which story wins, but would if it knew delta; low where it is sure, and where it is a
    toss-up whatever delta is. The expectations are sums over a grid of x.

    Args:
        taste: what is known so far.
        gaps: [N, G] differences of g of the pairs that could be asked.
        general: [N] differences of what of the shipped scores is `counted`.
    """
    mean = gaps @ taste.delta + general
    deviation = ((gaps @ taste.covariance) * gaps).sum(dim=1).clamp(min=0).sqrt()
    grid = torch.linspace(-6, 6, 61)
    share = torch.softmax(-(grid**2) / 2, dim=0)
    chance = torch.sigmoid(mean[:, None] + deviation[:, None] * grid)
    return (_entropy(chance @ share) - _entropy(chance) @ share).clamp(min=0)


def _entropy(chance: Tensor) -> Tensor:
    return -(torch.xlogy(chance, chance) + torch.xlogy(1 - chance, 1 - chance))
