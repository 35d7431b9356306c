"""A writer's taste: its numbers by hand and by brute force, its files, and that it learns."""

import math
import random
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rewards.base import StoryText
from rewards.encoder import shared_encoder
from rewards.files import write_tensors
from rewards.preference import Preference
from rewards.taste import Choice, Directions, Taste, counted, information, prior_deviation, taste_features
from storyrl.errors import InputError

_SIZE = len(prior_deviation())


def _gaps(*rows: list[float]) -> Tensor:
    """Rows of gaps, zero beyond the numbers given."""
    return torch.tensor([row + [0.0] * (_SIZE - len(row)) for row in rows])


def _random_choices(count: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(seed)
    gaps, general = torch.randn(count, _SIZE), torch.randn(count)
    return gaps, general, torch.randint(3, (count,)) / 2, torch.rand(count) + 0.5


def test_one_choice_by_hand() -> None:
    # The prior's precision is 1 / 0.1^2 = 100, so delta = (1 - sigmoid(delta)) / 100: from 0.005 in two steps.
    taste = Taste.fit(_gaps([1.0]), torch.zeros(1), torch.ones(1), torch.ones(1))
    assert taste.delta[0].item() == pytest.approx(0.0049875, abs=1e-7)
    assert taste.covariance[0, 0].item() == pytest.approx(1 / 100.25, abs=1e-7)
    assert taste.delta[1:].abs().max() == 0
    assert taste.choices == 1
    twice = Taste.fit(_gaps([1.0]), torch.zeros(1), torch.ones(1), torch.tensor([2.0]))
    assert twice.delta[0].item() == pytest.approx(2 * 0.00497512, abs=1e-6)  # (1 - sigmoid(delta)) / 50


def test_the_mode_by_brute_force() -> None:
    torch.manual_seed(1)
    two, general = torch.randn(60, 2) * 3, torch.randn(60)
    first_better, weights = torch.randint(3, (60,)) / 2, torch.rand(60) * 2
    taste = Taste.fit(torch.cat([two, torch.zeros(60, _SIZE - 2)], dim=1), general, first_better, weights)
    steps = torch.arange(-100, 101) / 250
    grid = torch.cartesian_prod(steps, steps)
    margins = grid @ two.T + general
    likelihood = first_better * logsigmoid(margins) + (1 - first_better) * logsigmoid(-margins)
    posterior = (weights * likelihood).sum(dim=1) - (grid**2).sum(dim=1) / (2 * 0.1**2)
    assert (taste.delta[:2] - grid[posterior.argmax()]).abs().max() <= 0.004


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_the_gradient_at_the_mode_is_zero(scale: float) -> None:
    gaps, general, first_better, weights = _random_choices(500)
    weights = weights * scale
    taste = Taste.fit(gaps, general * scale, first_better, weights)
    chance = torch.sigmoid(gaps @ taste.delta + general * scale)
    gradient = gaps.T @ (weights * (first_better - chance)) - taste.delta / prior_deviation() ** 2
    assert gradient.abs().max() < 1e-3 * scale + 1e-3


def test_ties_pull_the_scores_together() -> None:
    gaps, general = _gaps([1.0, 1.0]), torch.tensor([2.0])
    tied = Taste.fit(gaps, general, torch.tensor([0.5]), torch.tensor([20.0]))
    apart = Taste.fit(gaps, general, torch.tensor([1.0]), torch.tensor([20.0]))
    assert 0 < (gaps @ tied.delta + general).item() < 2.0 - 0.1
    assert (gaps @ apart.delta + general).item() > 2.0
    level = Taste.fit(gaps, torch.zeros(1), torch.tensor([0.5]), torch.ones(1))
    assert level.delta.abs().max() == 0


def test_without_choices_there_is_the_prior() -> None:
    fitted = Taste.fit(torch.zeros(0, _SIZE), torch.zeros(0), torch.zeros(0), torch.zeros(0))
    for taste in (fitted, Taste.unknown()):
        assert taste.delta.abs().max() == 0
        assert torch.allclose(taste.covariance, torch.diag(prior_deviation() ** 2))
        assert taste.choices == 0
    with pytest.raises(InputError, match="no choices"):
        Taste.learn([])


def test_scores_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rewards.taste._usual", lambda: (1.5, 0.5))
    # In deviations 0, -1 (the threshold, where softplus is log 2 / 1.5), -20 and -21 (slope 1), 40 (level).
    at_usual = math.log(1 + math.exp(-1.5)) / 1.5
    expected = [1.5 + 2.5 * (at_usual - lack) for lack in (at_usual, math.log(2) / 1.5, 19, 20, 0)]
    assert counted(torch.tensor([1.5, 1.0, -8.5, -9.0, 21.5])).tolist() == pytest.approx(expected, abs=1e-4)
    delta = torch.zeros(_SIZE)
    delta[:2] = torch.tensor([0.06, -0.08])
    features, usual = _gaps([1.0, 0.5], [-1.0, 1.5]), torch.tensor([1.5, 1.5])
    scores = Taste(delta, torch.eye(_SIZE)).combine(features, usual)
    assert scores.tolist() == pytest.approx([1.5 + 0.02, 1.5 - 0.18])
    longer = Taste(10 * delta, torch.eye(_SIZE)).combine(features, usual)
    assert longer.tolist() == pytest.approx([1.5 + 2.5 * 0.02, 1.5 - 2.5 * 0.18])  # of length 0.25, not 1


def test_information_is_that_of_monte_carlo() -> None:
    torch.manual_seed(0)
    root = torch.randn(_SIZE, _SIZE) * 0.15
    taste = Taste(torch.randn(_SIZE) * 0.3, root @ root.T)
    gaps, general = torch.randn(40, _SIZE) * torch.logspace(-2, 0.5, 40)[:, None], torch.randn(40) * 3
    chance = torch.sigmoid(gaps @ (taste.delta[:, None] + root @ torch.randn(_SIZE, 100_000)) + general[:, None])

    def entropy(p: Tensor) -> Tensor:
        return -(torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p))

    sampled = entropy(chance.mean(dim=1)) - entropy(chance).mean(dim=1)
    assert sampled.max() > 0.3
    assert (information(taste, gaps, general) - sampled).abs().max() < 0.004


def test_information_at_its_ends() -> None:
    sure = Taste(torch.ones(_SIZE), torch.zeros(_SIZE, _SIZE))
    assert information(sure, _gaps([1.0], [0.0]), torch.tensor([0.0, 3.0])).abs().max() < 1e-6
    # x of deviation 10: the answer's own entropy is log 2, and H(sigmoid(x)) has the integral pi^2 / 3.
    vague = Taste(torch.zeros(_SIZE), torch.eye(_SIZE) * 100)
    expected = math.log(2) - math.pi**2 / 3 / (10 * math.sqrt(2 * math.pi))
    asked = information(vague, _gaps([1.0], [0.0]), torch.zeros(2))
    assert asked.tolist() == pytest.approx([expected, 0.0], abs=0.005)


def test_save_and_load(tmp_path: Path) -> None:
    taste = Taste.fit(*_random_choices(20))
    assert taste.save(tmp_path / "new" / "folder") == tmp_path / "new" / "folder" / "taste.safetensors"
    again = Taste.load(tmp_path / "new" / "folder")
    assert torch.equal(again.delta, taste.delta)
    assert torch.equal(again.covariance, taste.covariance)
    assert again.choices == 20


def test_files_that_are_no_taste(tmp_path: Path) -> None:
    path = tmp_path / "taste.safetensors"
    with pytest.raises(InputError, match="can be read"):
        Taste.load(tmp_path)
    path.write_text("no tensors")
    with pytest.raises(InputError, match="can be read"):
        Taste.load(tmp_path)
    short = {"delta": torch.zeros(3), "covariance": torch.eye(3), "choices": torch.tensor(1)}
    for tensors in ({"weight": torch.zeros(3)}, short):
        write_tensors(tensors, path)
        with pytest.raises(InputError, match="another version"):
            Taste.load(tmp_path)


def test_thousands_of_choices_take_seconds() -> None:
    choices = _random_choices(2000)
    start = time.perf_counter()
    Taste.fit(*choices)
    assert time.perf_counter() - start < 10


_NARRATED = (
    "The road ran down to the old mill.",
    "Tom put the sack on the cart and looked at the sky.",
    "Rain came over the hill before noon.",
    "Anna lit the stove and set two cups on the table.",
    "The dog slept under the bench by the door.",
    "They carried the flour in and shut the window.",
    "The mill wheel turned all night in the dark water.",
    "A neighbour left eggs on the step and went home.",
)
_SPOKEN = (
    '"Is the cart ready?" said Tom.',
    '"It has been ready for an hour," said Anna.',
    '"You never told me," he said.',
    '"Then listen next time," she said.',
    '"Will it rain?" asked the boy.',
    '"It always rains," said Tom.',
    '"Give me your hand," she said.',
    '"I can manage," said the boy.',
)


def _story(rng: random.Random, talkative: bool) -> StoryText:
    spoken = 5 if talkative else 1
    sentences = rng.sample(_SPOKEN, spoken) + rng.sample(_NARRATED, 6 - spoken)
    rng.shuffle(sentences)
    return StoryText(" ".join(sentences), "", "Tom and Anna live by the mill.")


def test_it_learns_who_likes_talk(tmp_path: Path) -> None:
    rng = random.Random(0)
    choices = []
    for number in range(120):
        pair = _story(rng, True), _story(rng, False)
        answer = float(number % 5 != 0)  # one answer in five is wrong
        choices.append(Choice(*pair, answer) if rng.random() < 0.5 else Choice(*pair[::-1], 1 - answer))
    read = []
    taste = Taste.learn(choices, lambda done, total: read.append((done, total)))
    different = len({story for choice in choices for story in (choice.first, choice.second)})
    assert read[-1] == (different, different)
    assert taste.choices == 120
    taste.save(tmp_path)
    taught, general = Preference(tmp_path), Preference()
    talk, other = ([_story(rng, talkative) for _ in range(30)] for talkative in (True, False))
    before, after = (
        sum(a > b for a, b in zip(scorer.score(talk), scorer.score(other), strict=True)) for scorer in (general, taught)
    )
    assert before <= 10  # the shipped model likes the other ones, by two and a half nats
    assert after >= 20
    assert after - before >= 15  # half of the pairs have changed sides
    scores = taste.scores(talk, torch.tensor(general.score(talk)))
    assert taught.score(talk) == pytest.approx(scores.tolist(), abs=1e-5)


def test_features_are_bounded_deviations() -> None:
    rng = random.Random(1)
    stories = [_story(rng, number % 2 == 0) for number in range(12)]
    features = taste_features([*stories, StoryText(""), StoryText("Stop! " * 300)])
    assert features.shape == (14, _SIZE)
    assert features.isfinite().all()
    assert features.abs().max() <= 1.5
    own = Directions.fit([story.text for story in stories], shared_encoder())
    rows = own([StoryText(story.text) for story in stories], shared_encoder())
    assert rows.mean(dim=0).abs().max() < 1e-3
    moving = rows.std(dim=0) > 0.01  # a measure may be the same in all of them
    assert moving.sum() > _SIZE / 2
    assert torch.allclose(rows.std(dim=0)[moving], torch.ones(int(moving.sum())), atol=1e-2)
