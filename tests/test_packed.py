"""Packed layers: the same numbers as plain ones, also after the weight changed, and gradient where it is asked for."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from storyrl import packed


@pytest.fixture
def layer() -> nn.Linear:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(48, 80))
    packed.pack(model)
    found: Any = model[0]
    return found


@pytest.mark.skipif(not packed.HAS_ONEDNN, reason="this torch has no oneDNN")
def test_layers_become_packed(layer: nn.Linear, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    pointwise = torch.ops.mkldnn._linear_pointwise
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", lambda *args: calls.append(1) or pointwise(*args))
    with torch.no_grad():
        layer(torch.randn(3, 48))
    assert calls and list(dict(layer.named_parameters())) == ["weight", "bias"]


@pytest.mark.parametrize("shape", [(48,), (1, 48), (3, 5, 48), (0, 48)])
def test_equals_a_plain_layer(layer: nn.Linear, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    with torch.no_grad():
        assert torch.allclose(layer(x), x @ layer.weight.T + layer.bias, atol=1e-5)


def test_follows_its_weight(layer: nn.Linear) -> None:
    x = torch.randn(4, 48)
    with torch.no_grad():
        layer(x)
        layer.weight.mul_(2)
        assert torch.allclose(layer(x), x @ layer.weight.T + layer.bias, atol=1e-5)
    layer.weight = nn.Parameter(torch.randn(80, 48))
    with torch.inference_mode():
        assert torch.allclose(layer(x), x @ layer.weight.T + layer.bias, atol=1e-5)


def test_copies_are_apart_and_gradient_flows(layer: nn.Linear) -> None:
    x = torch.randn(4, 48, requires_grad=True)
    with torch.no_grad():
        before = layer(x)
    other = copy.deepcopy(layer)
    with torch.no_grad():
        other.weight.zero_()
        other.bias.zero_()
        assert other(x).abs().max() == 0 and torch.equal(layer(x), before)
    layer(x).sum().backward()
    assert torch.allclose(x.grad, layer.weight.sum(dim=0).expand(4, -1), atol=1e-5)
    assert torch.allclose(layer.weight.grad, x.detach().sum(dim=0).expand(80, -1), atol=1e-5)


def test_other_types_are_left_alone() -> None:
    model = nn.Sequential(nn.Linear(8, 8).to(torch.float64))
    packed.pack(model)
    x = torch.randn(2, 8, dtype=torch.float64)
    with torch.no_grad():
        assert torch.allclose(model(x), x @ model[0].weight.T + model[0].bias)
