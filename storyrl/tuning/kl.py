"""Estimates of the KL divergence from the reference, from log-probabilities of sampled tokens (Schulman 2020)."""

import torch


def k1(logprobs: torch.Tensor, reference_logprobs: torch.Tensor) -> torch.Tensor:
    """log pi - log pi_ref a token, in nats; its mean over samples of pi is the KL. Unbiased also as a reward term."""
    return logprobs - reference_logprobs


def k3(logprobs: torch.Tensor, reference_logprobs: torch.Tensor) -> torch.Tensor:
    """(pi_ref / pi) - 1 - log(pi_ref / pi) a token: same mean as k1, never negative, less spread; for the log only."""
    log_ratio = reference_logprobs - logprobs
    return log_ratio.exp() - 1 - log_ratio
