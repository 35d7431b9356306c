"""Linear layers whose weight is also kept in the layout that the CPU's matrix product reads fastest.

oneDNN multiplies by a weight matrix in its own blocked layout faster than by a plain one, most of all where there are
few rows, as in the decoder (`make bench` and `make bench-tune` compare with plain ones). Where there is no gradient by
the weight to work out, such a copy is made at first use and again whenever the weight has changed. It costs the layer's
memory once more. On a GPU, in bfloat16, and in a torch without these operators the layers are plain ones.

Within `half_weights()` few rows are multiplied by a copy in float16, which FBGEMM widens to float32 as it reads: where
reading the weights takes the time, half of them takes half of it. Weights that were stored in 16 bits lose nothing by
that, others a part in 4,000. The generator of stories decodes so; tuning does not, since it compares probabilities.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn

from storyrl.threads import aside

_ROWS = 64  # what the layout is made for; any number of rows can be multiplied
_FEW = 128  # rows up to which float16 weights are the faster ones
_LARGEST = 60_000  # beyond it float16 ends
_here = threading.local()


@contextmanager
def half_weights(allowed: bool = True) -> Iterator[None]:
    """Let packed layers of this thread read float16 copies of their weights where that is faster."""
    before = getattr(_here, "half", False)
    _here.half = allowed
    try:
        yield
    finally:
        _here.half = before


class Packed:
    """The packed copies of one weight."""

    def __init__(self) -> None:
        self._of: tuple[int, int] | None = None  # the weight's address and version
        self._weight: Any = None
        self._half_of: tuple[int, int] | None = None
        self._half: Any = None

    def __deepcopy__(self, _memo: dict[int, Any]) -> "Packed":
        return Packed()

    def __reduce__(self) -> tuple[Any, ...]:
        return Packed, ()

    def linear(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """x W^T + bias without gradient, [..., in] and [out, in] to [..., out]."""
        if not _can_pack(x, weight):
            return nn.functional.linear(x, weight, bias)
        state = (weight.data_ptr(), weight._version)
        if HAS_FBGEMM and getattr(_here, "half", False) and x.numel() <= _FEW * x.shape[-1]:
            if self._half_of != state:
                fits = bool(weight.detach().abs().max() < _LARGEST)
                self._half = torch.ops.quantized.linear_prepack_fp16(weight.detach(), None) if fits else None
                self._half_of = state
            if self._half is not None:
                product: torch.Tensor = torch.ops.quantized.linear_dynamic_fp16(x.contiguous(), self._half)
                return product if bias is None else product.add_(bias)
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


def _has_fbgemm() -> bool:
    try:
        weight = torch.ops.quantized.linear_prepack_fp16(torch.eye(8), None)
        return bool(torch.equal(torch.ops.quantized.linear_dynamic_fp16(torch.eye(8), weight), torch.eye(8)))
    except (RuntimeError, AttributeError):
        return False


HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
HAS_FBGEMM = HAS_ONEDNN and aside(_has_fbgemm)
