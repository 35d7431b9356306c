"""Layers in 8 bits: near to float32, exact about who is in the batch, and safe at their largest values."""

import pytest
import torch
from torch import nn

from rewards import int8
from rewards.base import StoryText
from rewards.goal import GoalReached, load_reader, shipped_weights
from rewards.goal_data import policy_stories
from rewards.train_goal import Item, predictions

pytestmark = pytest.mark.skipif(not int8.HAS_INT8, reason="this torch has no 8-bit product")


def pair(inputs: int, outputs: int) -> tuple[nn.Linear, nn.Linear]:
    """A plain layer, and the same in 8 bits."""
    torch.manual_seed(0)
    plain = nn.Linear(inputs, outputs)
    model = nn.Sequential(nn.Linear(inputs, outputs))
    model[0].load_state_dict(plain.state_dict())
    int8.quantise(model)
    assert isinstance(model[0], int8.Int8Linear)
    return plain, model[0]


@torch.no_grad()
def test_by_hand() -> None:
    """Whole multiples of the levels come out exactly: the largest value is 127, so a level is 1; of the weight 1/63."""
    _, layer = pair(2, 2)
    layer.weight.copy_(torch.tensor([[1.0, -21 / 63], [0.0, 1.0]]))
    layer.bias.copy_(torch.tensor([10.0, 0.0]))
    model = nn.Sequential(nn.Linear(2, 2))
    model[0].load_state_dict(layer.state_dict())
    int8.quantise(model)
    assert torch.allclose(model(torch.tensor([[127.0, -30.0]])), torch.tensor([[127 + 10 + 10.0, -30.0]]), atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("shape", [(384,), (1, 384), (3, 5, 384), (0, 384)])
def test_near_the_plain_layer(shape: tuple[int, ...]) -> None:
    plain, layer = pair(384, 96)
    x = torch.randn(shape)
    assert layer(x).shape == plain(x).shape
    if x.numel():
        assert (layer(x) - plain(x)).std() < 0.02 * plain(x).std()


@torch.no_grad()
def test_the_largest_values_do_not_overflow() -> None:
    _, layer = pair(1024, 16)
    layer.weight.fill_(0.5)
    model = nn.Sequential(nn.Linear(1024, 16))
    model[0].load_state_dict(layer.state_dict())
    int8.quantise(model)
    for sign in (1, -1):
        assert torch.allclose(model(torch.full((4, 1024), 8.0 * sign)) - layer.bias, torch.tensor(4096.0 * sign))


@torch.no_grad()
def test_a_row_does_not_depend_on_the_others() -> None:
    _, layer = pair(384, 96)
    x = torch.randn(50, 384) * torch.logspace(-3, 3, 50)[:, None]
    assert torch.equal(torch.cat([layer(row[None]) for row in x]), layer(x))
    assert layer(torch.zeros(1, 384)).equal(layer.bias[None])


def test_the_goal_score_reads_in_8_bits_and_says_the_same() -> None:
    """On the shipped weights: single probabilities move a little, their order hardly."""
    cases = policy_stories(held_out=True)[::6]
    scorer = GoalReached()
    assert isinstance(scorer.reader.layers[0].up, int8.Int8Linear)
    fast = torch.tensor(scorer.score([StoryText(case.story, goal) for case in cases for goal in case.goals]))
    reader, _ = load_reader.__wrapped__(shipped_weights())
    log_odds, _ = predictions(reader.eval(), [Item.of(case, scorer.tokens) for case in cases])
    plain = scorer.probability(log_odds)
    assert len(fast) > 100
    assert (fast - plain).abs().mean() < 0.03
    assert torch.corrcoef(torch.stack([fast, plain]))[0, 1] > 0.99


def test_the_goal_score_does_not_depend_on_the_batch() -> None:
    stories = [StoryText(case.story, case.goals[0]) for case in policy_stories(held_out=True)[:24]]
    together = GoalReached().score(stories)
    alone = [GoalReached().score([story])[0] for story in reversed(stories)]
    assert together == alone[::-1]


def test_gradient_flows_in_float32() -> None:
    plain, layer = pair(48, 8)
    x = torch.randn(3, 48, requires_grad=True)
    assert torch.equal(layer(x), plain(x))
    layer(x).sum().backward()
    assert x.grad is not None
