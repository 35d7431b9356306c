"""One decoding step of Llama-shaped models: the logits after one new token of each row, with few operations.

With one token a row the matrix products are small, and the many operations that a general forward pass puts around them
take as long. Here the samples of one context share its keys and values, which are read once for all of them (as
Juravsky et al. 2024), and the queries that share a key head are rows of one product, so keys are never repeated. The
modules are the model's own, LoRA and packed layers included; tests compare with the model's own forward pass. Other
models decode by that pass (storyrl/decoding.py).
"""

from typing import Any

import torch
from torch.nn import functional as F
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

_KINDS = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")


def can_step(model: Any) -> bool:
    """Whether `Stepper` knows the model: its kind, and full attention in all layers."""
    if type(model).__name__ not in _KINDS or not type(model).__module__.startswith("transformers."):
        return False
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.config).layers)


class Stepper:
    """Decodes S samples of each of C contexts side by side: row c * S + s is sample s of context c.

    Dimensions below: H key heads, G query heads on each, D their width, P columns of contexts, T tokens since.
    """

    def __init__(self, model: Any, cache: Cache, is_token: torch.Tensor, samples: int, room: int):
        """Begin after contexts that were read into `cache`, `is_token` [C, P]; at most `room` tokens can follow."""
        self.model, self.samples, self.count = model, samples, 0
        self.lengths = is_token.sum(dim=1)
        self.mask: torch.Tensor | None = None
        if not is_token.all():
            hidden = torch.zeros(is_token.shape, device=model.device, dtype=model.dtype)
            self.mask = hidden.masked_fill_(~is_token, -torch.inf)[:, None, None]
        self.before = [(layer.keys, layer.values) for layer in cache.layers]  # [C, H, P, D] of each layer
        shape = [len(is_token), self.before[0][0].shape[1], samples, room, self.before[0][0].shape[3]]
        self.since = [(keys.new_empty(shape), values.new_empty(shape)) for keys, values in self.before]

    def take(self, rows: torch.Tensor) -> None:
        """Keep these rows, [C', S'] numbers of rows now; those of one line must be of one context."""
        contexts, samples = rows[:, 0] // self.samples, rows % self.samples
        if len(contexts) < len(self.lengths):
            self.lengths, self.before = self.lengths[contexts], [(k[contexts], v[contexts]) for k, v in self.before]
            self.mask = None if self.mask is None else self.mask[contexts]
        self.samples = rows.shape[1]
        heads = torch.arange(self.since[0][0].shape[1], device=rows.device)
        place = (contexts[:, None, None], heads[None, :, None], samples[:, None])
        self.since = [(keys[place], values[place]) for keys, values in self.since]

    def logits(self, token: torch.Tensor) -> torch.Tensor:
        """[B, V] float32 after one more token [B] of each row."""
        body = self.model.model
        positions = self.lengths.repeat_interleave(self.samples) + self.count
        self.count += 1
        x = body.embed_tokens(token)
        cos, sin = body.rotary_emb(x[:, None], positions[:, None])
        half = sin.shape[-1] // 2
        turn = cos, torch.cat([-sin[..., :half], sin[..., half:]], dim=-1)
        for number, layer in enumerate(body.layers):
            x = x + self._attend(number, layer.self_attn, _norm(layer.input_layernorm, x), turn)
            x = x + layer.mlp(_norm(layer.post_attention_layernorm, x))
        logits: torch.Tensor = self.model.lm_head(_norm(body.norm, x))
        return logits.float()

    def _attend(self, number: int, layer: Any, x: torch.Tensor, turn: tuple[torch.Tensor, torch.Tensor]) -> Any:
        """The attention layer's output [B, width] for [B, width]."""
        (keys_before, values_before), (keys, values) = self.before[number], self.since[number]
        contexts, heads, columns, width = keys_before.shape
        q, k, v = (part(x).view(len(x), -1, width) for part in (layer.q_proj, layer.k_proj, layer.v_proj))
        if hasattr(layer, "q_norm"):
            q, k = _norm(layer.q_norm, q), _norm(layer.k_norm, k)
        both, (cos, sin) = torch.cat([q * layer.scaling, k], dim=1), turn
        both = torch.addcmul(both * cos, both.roll(width // 2, dims=-1), sin)  # rotated by their positions
        grid = (contexts, self.samples, heads, -1, width)
        q = both[:, :-heads].reshape(grid).transpose(1, 2).contiguous()  # [C, H, S, G, D]
        keys[:, :, :, self.count - 1] = both[:, -heads:].reshape(grid[:3] + grid[4:]).transpose(1, 2)
        values[:, :, :, self.count - 1] = v.view(grid[:3] + grid[4:]).transpose(1, 2)
        keys, values = keys[:, :, :, : self.count], values[:, :, :, : self.count]

        to_before = q.flatten(2, 3) @ keys_before.transpose(-1, -2)  # [C, H, S * G, P]
        if self.mask is not None:
            to_before += self.mask
        to_since = (q @ keys.transpose(-1, -2)).flatten(2, 3)  # [C, H, S * G, T]
        weights = torch.cat([to_before, to_since], dim=-1).softmax(dim=-1, dtype=torch.float32).to(q.dtype)
        read = weights[..., :columns] @ values_before
        read += (weights[..., columns:].unflatten(2, (self.samples, -1)) @ values).flatten(2, 3)
        read = read.view(contexts, heads, self.samples, -1, width).transpose(1, 2)
        return layer.o_proj(read.reshape(len(x), -1))


def _norm(module: Any, x: torch.Tensor) -> torch.Tensor:
    """Root-mean-square normalisation (Zhang & Sennrich 2019), in float32 as the models do it."""
    normed = F.rms_norm(x.float(), x.shape[-1:], None, module.variance_epsilon)
    return module.weight * normed.to(x.dtype)
