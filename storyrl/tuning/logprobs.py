"""Log-probabilities of action tokens under a causal language model.

The output head is the most expensive single layer of a small model (V = 49,152 columns). It is run only at the
positions that predict an action token, a chunk at a time, and its gradient with respect to the hidden states is worked
out in the same visit, so that no [N, V] matrix is ever kept (`_ChosenLogprob`).
"""

from typing import Any

import torch
from torch.nn import functional as F
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from storyrl.packed import PackedLinear
from storyrl.tuning.episodes import Batch, SharedPrefix

# Models whose logits are not simply head(hidden): run their own forward over all positions.
_SCALES_LOGITS = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier")
_CHUNK = 512  # rows of logits at a time: 512 * 49,152 * 4 bytes = 100 MB


def action_logprobs(model: Any, batch: Batch) -> torch.Tensor:
    """log pi(a_t | everything before t) in nats, [B, T] float32; exactly 0 where the token is no action."""
    logprobs = torch.zeros_like(batch.ids, dtype=torch.float32)
    logprobs[:, 1:][batch.is_action_token[:, 1:]] = plain_logprobs(model, batch)[0]
    return logprobs


def plain_logprobs(model: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities [N] of all action tokens, row by row, and the states [N, H] that chose them.

    Each row is read whole: the oracle of `shared_logprobs`, and what any causal LM can do. The first token of a row is
    never an action: nothing predicts it.
    """
    is_scored = batch.is_action_token[:, 1:]
    targets = batch.ids[:, 1:][is_scored]
    # Padding stands on the right, where a causal model never looks, so no mask is needed (and attention runs faster).
    inputs = {"input_ids": batch.ids, "use_cache": False}
    if fits_fast_head(model):
        states = model.base_model(**inputs).last_hidden_state[:, :-1][is_scored]
        return _head(model, states, targets), states
    output = model(**inputs, output_hidden_states=True)
    states = output.hidden_states[-1][:, :-1][is_scored]
    return plain_chosen_logprobs(output.logits[:, :-1][is_scored], targets), states


def shared_logprobs(model: Any, group: SharedPrefix) -> tuple[torch.Tensor, torch.Tensor]:
    """The same for episodes of one prompt: the prompt is read once, and gradient flows through it once."""
    states = predicting_states(model, group)[group.is_action_token]
    return _head(model, states, group.ids[group.is_action_token]), states


def predicting_states(model: Any, group: SharedPrefix) -> torch.Tensor:
    """The last layer's output before each token of the rests, [B, S, H]."""
    rows, width = group.ids.shape
    layers = [_PrefixLayer(rows) for _ in range(model.config.get_text_config().num_hidden_layers)]
    cache = Cache(layers=layers)
    before = model.base_model(input_ids=group.prefix[None], past_key_values=cache, use_cache=True).last_hidden_state
    last = before[:, -1:].expand(rows, 1, -1)
    if width == 1:
        return last
    # What a row's last token would predict is not asked for.
    rest = model.base_model(input_ids=group.ids[:, :-1], past_key_values=cache, use_cache=True).last_hidden_state
    return torch.cat([last, rest], dim=1)


class _PrefixLayer(DynamicLayer):
    """Keys and values of a prefix read as one row, then seen by many rows; nothing is changed in place."""

    is_initialized: bool

    def __init__(self, rows: int):
        super().__init__()
        self.rows = rows

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True
            self.keys, self.values = key_states, value_states
            return key_states, value_states
        old = (tensor.expand(self.rows, -1, -1, -1) for tensor in (self.keys, self.values))
        keys, values = (torch.cat(pair, dim=2) for pair in zip(old, (key_states, value_states), strict=True))
        return keys, values

    def get_seq_length(self) -> int:
        return self.keys.shape[2] if self.is_initialized else 0


def can_share_prefix(model: Any) -> bool:
    """Whether `shared_logprobs` fits: a plain output head, and full attention with one cache of keys a layer."""
    if not fits_fast_head(model):
        return False
    layers = DynamicCache(config=model.config).layers
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


def _head(model: Any, states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    head = model.get_output_embeddings()
    chosen: torch.Tensor = _ChosenLogprob.apply(states, head.weight, targets, head)
    return chosen


def fits_fast_head(causal_lm: Any) -> bool:
    """Whether the model's logits are its last hidden states times one weight matrix, and nothing else."""
    head = causal_lm.get_output_embeddings()
    is_plain = type(head) in (torch.nn.Linear, PackedLinear) and head.bias is None
    scaled = any(getattr(causal_lm.config, name, None) for name in _SCALES_LOGITS)
    return is_plain and not scaled and causal_lm.base_model is not causal_lm


def plain_chosen_logprobs(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """log softmax(logits)[target], [N, V] and [N] to [N] float32: the oracle of the fast path."""
    return -F.cross_entropy(logits.float(), targets, reduction="none")


class _ChosenLogprob(torch.autograd.Function):
    """log softmax(h W^T)[a] for N rows, without keeping the [N, V] logits.

    With p = softmax(h W^T), the gradient by h is g (W[a] - p W): up to the incoming scalar g it is known in the
    forward visit. The gradient by W (full tuning only) is worked out chunk by chunk in the backward visit.
    """

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, head: Any) -> torch.Tensor:
        hidden = hidden.to(weight.dtype)
        chosen = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for rows in _chunks(len(targets)):
            logits = head(hidden[rows]).float()
            picked = logits.gather(1, targets[rows, None]).squeeze(1)
            probs, log_z = _softmax_(logits)
            chosen[rows] = picked - log_z
            if grad_hidden is not None:
                grad_hidden[rows] = weight[targets[rows]] - probs.to(weight.dtype) @ weight
        ctx.save_for_backward(hidden, weight, targets, grad_hidden)
        return chosen

    @staticmethod
    def backward(ctx: Any, grad_chosen: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None, None]:
        hidden, weight, targets, grad_hidden = ctx.saved_tensors
        by_hidden = by_weight = None
        if ctx.needs_input_grad[0]:
            by_hidden = grad_hidden * grad_chosen[:, None].to(grad_hidden.dtype)
        if ctx.needs_input_grad[1]:
            by_weight = torch.zeros_like(weight, dtype=torch.float32)
            for rows in _chunks(len(targets)):
                probs, _ = _softmax_((hidden[rows] @ weight.T).float())
                by_logits = probs.mul_(-grad_chosen[rows, None])
                by_logits.scatter_add_(1, targets[rows, None], grad_chosen[rows, None])
                by_weight += by_logits.to(weight.dtype).T @ hidden[rows]
            by_weight = by_weight.to(weight.dtype)
        return by_hidden, by_weight, None, None


def _softmax_(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Softmax in place and its log normaliser, [N, V] to ([N, V], [N])."""
    top = logits.amax(dim=1, keepdim=True)
    total = logits.sub_(top).exp_().sum(dim=1, keepdim=True)
    return logits.div_(total), (top + total.log()).squeeze(1)


def _chunks(rows: int) -> list[slice]:
    return [slice(start, start + _CHUNK) for start in range(0, rows, _CHUNK)]
