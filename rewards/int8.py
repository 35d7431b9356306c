"""Linear layers that multiply 8-bit integers, for a network that is only read: faster than in float32.

A row of the input is rounded to 8 bits by its own largest value and a row of the weight to 7 bits; oneDNN sums their
products exactly, in integers, and the sums are scaled back to float32 (as in Dettmers et al. 2022, "LLM.int8()",
without its outliers). Each row is rounded by itself, so what else is in the batch changes nothing. The weight has 7
bits because processors without VNNI add two products in 16 bits: 2 x 255 x 63 fits, and so all processors agree.

Where a processor has AVX2 only, the goal classifier as a whole became about 1.2 times as fast by it (rewards/weights/
README.md): rounding takes a part of the gain. VNNI multiplies bytes faster; how much that gives was not measured.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn

from storyrl.threads import aside

_LEVELS = 63  # of the weight, on either side of zero
_ZERO = 128  # of the input, an unsigned byte


class Int8Linear(nn.Linear):
    """A linear layer that multiplies in 8 bits where no gradient is asked for; its float32 weight stays beside it."""

    packed: Any  # the weight in oneDNN's layout, [out, in] int8
    scale: Tensor  # [out]
    zeros: Tensor  # [out]

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        if torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad):
            return super().forward(x)
        rows = x.reshape(-1, self.in_features)
        largest = torch.maximum(rows.amax(dim=1, keepdim=True), -rows.amin(dim=1, keepdim=True))  # faster than by abs
        step = largest.clamp_(min=1e-12).div_(127)  # [rows, 1]
        levels = (rows * (1 / step)).round_().to(torch.int8)  # several times as fast as to bytes without a sign
        sums = _product(levels.view(torch.uint8).add_(_ZERO), self.packed, self.scale, self.zeros)
        return torch.addcmul(self.bias, sums, step, out=sums).view(*x.shape[:-1], self.out_features)


def quantise(model: nn.Module) -> None:
    """Let the linear layers with a bias and more than one output multiply in 8 bits from now on, in place.

    Parameters and their names stay. Does nothing where torch has no such product.
    """
    if not HAS_INT8:
        return
    for module in model.modules():
        if type(module) is nn.Linear and module.bias is not None and module.out_features > 1:
            module.__class__ = Int8Linear
            layer = cast(Int8Linear, module)
            layer.packed, layer.scale = _pack(module.weight.detach())
            layer.zeros = torch.zeros(module.out_features, dtype=torch.int64)


def _pack(weight: Tensor) -> tuple[Any, Tensor]:
    scale = weight.abs().amax(dim=1).clamp(min=1e-12) / _LEVELS
    whole = (weight / scale[:, None]).round().to(torch.int8)
    return torch.ops.onednn.qlinear_prepack(whole, None), scale


def _product(levels: Tensor, packed: Any, scale: Tensor, zeros: Tensor) -> Tensor:
    """(levels - _ZERO) W^T with W's scales, [rows, in] uint8 to [rows, out] float32."""
    weight = packed, scale, zeros
    result: Tensor = torch.ops.onednn.qlinear_pointwise(
        levels, 1.0, _ZERO, *weight, None, 1.0, 0, torch.float32, "none", [], ""
    )
    return result


def _has_int8() -> bool:
    try:
        levels = torch.full((2, 64), 255, dtype=torch.uint8)
        product = _product(levels, *_pack(torch.full((64, 64), 0.5)), torch.zeros(64, dtype=torch.int64))
        return bool(torch.allclose(product, torch.tensor(127 * 64 * 0.5), rtol=1e-5))
    except (RuntimeError, AttributeError, TypeError):
        return False


HAS_INT8 = torch.backends.mkldnn.is_available() and aside(_has_int8)
