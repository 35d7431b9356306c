"""LoRA with the update kept merged into the weights: W' = W + s B A (Hu et al. 2021).

Decoding and the forward pass of training then run at the plain model's speed and on the very same weights, so the
policy that samples is the policy that learns. Only the backward pass knows of A and B. The adapter is saved in peft's
format and loads there. What it leaves out: dropout, adapted embeddings or output head, other kinds of adapters.
"""

import copy
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors.torch import save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from storyrl.errors import InputError
from storyrl.packed import Packed


class LoraLinear(nn.Module):
    """A linear layer y = x W'^T + bias whose W' follows `base` + scale * B A at each `merge`.

    Attributes:
        weight: W' in the layout of the layer that it replaces: [out, in], or [in, out] in GPT-2's Conv1D.
        lora_a: [rank, in] float32; lora_b: [out, rank] float32, zero at first. They get the gradient.
    """

    def __init__(self, base: Any, rank: int, scale: float):
        super().__init__()
        self.is_transposed = isinstance(base, Conv1D)
        self.weight = nn.Parameter(base.weight.detach().clone(), requires_grad=False)
        self.bias: torch.Tensor | None = base.bias
        self.scale = scale
        self._packed = Packed()
        self._base = [base.weight]  # in a list: the reference's tensor, not a parameter of this module
        out, into = self.rows(self.weight).shape
        device = self.weight.device
        self.lora_a = nn.Parameter(torch.empty(rank, into, device=device))
        self.lora_b = nn.Parameter(torch.zeros(out, rank, device=device))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))

    def rows(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight as [out, in]."""
        return weight.T if self.is_transposed else weight

    @torch.no_grad()
    def merge(self) -> None:
        """Bring W' up to A and B."""
        update = self.lora_b @ self.lora_a
        update = update.T if self.is_transposed else update
        self.weight.copy_(torch.add(self._base[0].float(), update, alpha=self.scale))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., in] to [..., out]."""
        if not torch.is_grad_enabled():
            return self.linear(x)
        result: torch.Tensor = _MergedLinear.apply(x, self, self.lora_a, self.lora_b)
        return result

    def linear(self, x: torch.Tensor) -> torch.Tensor:
        """x W'^T + bias without gradient."""
        return self._packed.linear(x, self.rows(self.weight), self.bias)


class _MergedLinear(torch.autograd.Function):
    """x W'^T + bias with gradient for x, A and B.

    With g = dL/dy: dL/dx = g W', dL/dA = s (g B)^T x, dL/dB = s g^T (x A^T). W' itself gets none.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, layer: LoraLinear, lora_a: torch.Tensor, lora_b: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(x, layer.rows(layer.weight), lora_a, lora_b)
        ctx.scale = layer.scale
        return layer.linear(x)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        x, weight, lora_a, lora_b = ctx.saved_tensors
        by_x = grad @ weight if ctx.needs_input_grad[0] else None
        rows, grads = x.reshape(-1, x.shape[-1]), grad.reshape(-1, grad.shape[-1])
        by_a = (grads @ lora_b.to(grads.dtype)).T @ rows
        by_b = grads.T @ (rows @ lora_a.to(rows.dtype).T)
        return by_x, None, by_a.float() * ctx.scale, by_b.float() * ctx.scale


def with_lora(base: Any, rank: int, seed: int) -> Any:
    """A copy of the causal LM `base` with LoRA on all its linear layers but the output head.

    What is not adapted (embeddings, norms, head) is shared with `base`, which stays as it is: the frozen reference.
    """
    base.requires_grad_(False)
    shared = {id(parameter): parameter for parameter in base.parameters()}
    model = copy.deepcopy(base, memo=shared)
    torch.manual_seed(seed)
    head = model.get_output_embeddings()
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear | Conv1D) and module is not head:
            parent, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(parent), attribute, LoraLinear(module, rank, scale=2.0))
    return model


def lora_layers(model: Any) -> Iterator[tuple[str, LoraLinear]]:
    """The adapted layers by name."""
    for name, module in model.named_modules():
        if isinstance(module, LoraLinear):
            yield name, module


def merge(model: Any) -> None:
    """Bring all W' up to their A and B."""
    for _, layer in lora_layers(model):
        layer.merge()


def save_policy(model: Any, tokenizer: Any, folder: Path, base: str, dtype: torch.dtype | None = None) -> None:
    """Write what was learned as `folder`, replacing it in one rename: a peft adapter, or the whole model without LoRA.

    Args:
        base: the spec of the policy that an adapter stands on; it is named in the adapter.
        dtype: of the written weights; None: as they are.

    Raises:
        InputError: it cannot be written; what was there before is still there.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
            built, old = Path(scratch) / "built", Path(scratch) / "old"
            if any(lora_layers(model)):
                _save_adapter(model, built, base, dtype)
            else:
                state = {name: tensor.to(dtype) for name, tensor in model.state_dict().items()} if dtype else None
                model.save_pretrained(built, state_dict=state)
                tokenizer.save_pretrained(built)
            if folder.exists():
                os.rename(folder, old)
            os.rename(built, folder)
            shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot write the policy ({error.strerror or error})") from error


def _save_adapter(model: Any, folder: Path, base: str, dtype: torch.dtype | None) -> None:
    """A and B of all layers in peft's format."""
    layers = dict(lora_layers(model))
    first = next(iter(layers.values()))
    rank = first.lora_a.shape[0]
    config = LoraConfig(
        r=rank,
        lora_alpha=int(first.scale * rank),
        lora_dropout=0.0,
        target_modules=sorted({name.rpartition(".")[2] for name in layers}),
        fan_in_fan_out=first.is_transposed,
        task_type="CAUSAL_LM",
        base_model_name_or_path=base,
        inference_mode=True,
    )
    folder.mkdir()
    config.save_pretrained(str(folder))
    state = {
        f"base_model.model.{name}.{part}.weight": matrix.detach().to(dtype or matrix.dtype).contiguous().cpu()
        for name, layer in layers.items()
        for part, matrix in (("lora_A", layer.lora_a), ("lora_B", layer.lora_b))
    }
    save_file(state, str(folder / "adapter_model.safetensors"))
