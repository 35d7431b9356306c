"""Linear layers whose weight is also kept in the layout that the CPU's matrix product reads fastest.

oneDNN multiplies by a weight matrix in its own blocked layout faster than by a plain one, most of all where there are
few rows, as in the decoder (`make bench` and `make bench-tune` compare with plain ones). Where there is no gradient by
the weight to work out, such a copy is made at first use and again whenever the weight has changed. It costs the layer's
memory once more. On a GPU, in bfloat16, and in a torch without these operators the layers are plain ones.
"""

from typing import Any, cast

import torch
from torch import nn

_ROWS = 64  # what the layout is made for; any number of rows can be multiplied


class Packed:
    """The packed copy of one weight."""

    def __init__(self) -> None:
        self._of: tuple[int, int] | None = None  # the weight's address and version
        self._weight: torch.Tensor | None = None

    def __deepcopy__(self, _memo: dict[int, Any]) -> "Packed":
        return Packed()

    def __reduce__(self) -> tuple[Any, ...]:
        return Packed, ()

    def linear(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """x W^T + bias without gradient, [..., in] and [out, in] to [..., out]."""
        if not _can_pack(x, weight):
            return nn.functional.linear(x, weight, bias)
        state = (weight.data_ptr(), weight._version)
        if self._of != state:
            self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), _ROWS)
            self._of = state
        result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, bias, "none", [], "")
        return result


class PackedLinear(nn.Linear):
    """A linear layer that multiplies by the packed copy where no gradient is asked for."""

    packed: Packed

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., in] to [..., out]."""
        if torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad):
            return super().forward(x)
        return self.packed.linear(x, self.weight, self.bias)


def pack(model: nn.Module) -> None:
    """Let all plain linear layers of a model be packed ones, in place; parameters and their names stay."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = PackedLinear
            cast(PackedLinear, module).packed = Packed()


def _can_pack(x: torch.Tensor, weight: torch.Tensor) -> bool:
    is_plain = x.dtype == weight.dtype == torch.float32 and x.device.type == weight.device.type == "cpu"
    return is_plain and x.numel() > 0 and not weight.is_inference() and HAS_ONEDNN


HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
