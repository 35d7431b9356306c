"""The KL divergence from the reference: estimates from sampled tokens (Schulman 2020), and its weight."""

from dataclasses import dataclass

import torch


def k1(logprobs: torch.Tensor, reference_logprobs: torch.Tensor) -> torch.Tensor:
    """log pi - log pi_ref a token, in nats; its mean over samples of pi is the KL. Unbiased also as a reward term."""
    return logprobs - reference_logprobs


def k3(logprobs: torch.Tensor, reference_logprobs: torch.Tensor) -> torch.Tensor:
    """(pi_ref / pi) - 1 - log(pi_ref / pi) a token: same mean as k1, never negative, less spread; for the log only."""
    log_ratio = reference_logprobs - logprobs
    return log_ratio.exp() - 1 - log_ratio


@dataclass
class KLController:
    """beta, the weight of the KL in the reward, in deviations a nat; fixed when `target` is 0.

    Otherwise it is multiplied after each step by 1 + clip((KL - target) / target, -0.2, 0.2) * stories / horizon, so
    that the KL a story comes to `target` nats (Ziegler et al. 2019, sec. 2.2).
    """

    beta: float
    target: float = 0.0
    horizon: int = 1000

    def update(self, kl: float, stories: int) -> None:
        """Take in the mean KL (nats a story) of a step with so many stories."""
        if self.target:
            error = min(max(kl / self.target - 1, -0.2), 0.2)
            self.beta *= 1 + error * stories / self.horizon
