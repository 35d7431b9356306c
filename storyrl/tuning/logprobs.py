"""Log-probabilities of action tokens under a causal language model.

The output head is the most expensive single layer of a small model (V = 49,152 columns). It is run only at the
positions that predict an action token, in chunks that stay in the processor's cache, and its gradient with respect to
the hidden states is worked out in the same visit, so that no [N, V] matrix is ever kept (`_ChosenLogprob`).
"""

from typing import Any

import torch
from torch.nn import functional as F

from storyrl.tuning.episodes import Batch

# Models whose logits are not simply head(hidden): run their own forward over all positions.
_SCALES_LOGITS = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier")
_CHUNK = 128  # rows of logits at a time: 128 * 49,152 * 4 bytes = 25 MB


def action_logprobs(model: Any, batch: Batch) -> torch.Tensor:
    """log pi(a_t | everything before t) in nats, [B, T] float32; exactly 0 where the token is no action.

    The first token of a row is never an action: nothing predicts it.
    """
    causal_lm = model.get_base_model() if hasattr(model, "get_base_model") else model
    is_scored = batch.is_action_token[:, 1:]
    targets = batch.ids[:, 1:][is_scored]  # [N]
    # Padding stands on the right, where a causal model never looks, so no mask is needed (and attention runs faster).
    inputs = {"input_ids": batch.ids, "use_cache": False}
    if fits_fast_head(causal_lm):
        hidden = causal_lm.base_model(**inputs).last_hidden_state  # [B, T, H]
        weight = causal_lm.get_output_embeddings().weight
        chosen = _ChosenLogprob.apply(hidden[:, :-1][is_scored], weight, targets)
    else:
        chosen = plain_chosen_logprobs(causal_lm(**inputs).logits[:, :-1][is_scored], targets)
    logprobs = torch.zeros_like(batch.ids, dtype=torch.float32)
    logprobs[:, 1:][is_scored] = chosen
    return logprobs


def fits_fast_head(causal_lm: Any) -> bool:
    """Whether the model's logits are its last hidden states times one weight matrix, and nothing else."""
    head = causal_lm.get_output_embeddings()
    scaled = any(getattr(causal_lm.config, name, None) for name in _SCALES_LOGITS)
    return type(head) is torch.nn.Linear and head.bias is None and not scaled and causal_lm.base_model is not causal_lm


def plain_chosen_logprobs(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """log softmax(logits)[target], [N, V] and [N] to [N] float32: the oracle of the fast path."""
    return -F.cross_entropy(logits.float(), targets, reduction="none")


class _ChosenLogprob(torch.autograd.Function):
    """log softmax(h W^T)[a] for N rows, without keeping the [N, V] logits.

    With p = softmax(h W^T), the gradient by h is g (W[a] - p W): up to the incoming scalar g it is known in the
    forward visit. The gradient by W (full tuning only) is worked out chunk by chunk in the backward visit.
    """

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        hidden = hidden.to(weight.dtype)
        chosen = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for rows in _chunks(len(targets)):
            logits = (hidden[rows] @ weight.T).float()
            picked = logits.gather(1, targets[rows, None]).squeeze(1)
            probs, log_z = _softmax_(logits)
            chosen[rows] = picked - log_z
            if grad_hidden is not None:
                grad_hidden[rows] = weight[targets[rows]] - probs.to(weight.dtype) @ weight
        ctx.save_for_backward(hidden, weight, targets, grad_hidden)
        return chosen

    @staticmethod
    def backward(ctx: Any, grad_chosen: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
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
        return by_hidden, by_weight, None


def _softmax_(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Softmax in place and its log normaliser, [N, V] to ([N, V], [N])."""
    top = logits.amax(dim=1, keepdim=True)
    total = logits.sub_(top).exp_().sum(dim=1, keepdim=True)
    return logits.div_(total), (top + total.log()).squeeze(1)


def _chunks(rows: int) -> list[slice]:
    return [slice(start, start + _CHUNK) for start in range(0, rows, _CHUNK)]
