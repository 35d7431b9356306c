"""The copies of the language model that tuning needs: the policy, which both samples and learns, and the reference.

With LoRA the policy shares with the reference all that is not adapted. Parameters that learn are float32 whatever the
model computes in; `refresh` brings the model's own weights up to them before each step.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from storyrl.config import TuneConfig
from storyrl.policy import Policy
from storyrl.tuning.episodes import Episode, collate, share_prefix
from storyrl.tuning.logprobs import can_share_prefix, plain_logprobs, shared_logprobs
from storyrl.tuning.lora import merge, save_policy, with_lora

_MOST_TOKENS = 4096  # of one forward pass with gradient


class Learner:
    """A policy under training.

    Attributes:
        policy: samples, and gets the gradient.
        reference: the frozen model that it started as.
        critic: for PPO, predicts the return from the state that chooses a token; None otherwise.
        trained: the policy's float32 parameters that learn.
        is_fast: whether a group's prompt is read once (storyrl/tuning/logprobs.py); any causal LM works without.
    """

    def __init__(self, policy: Policy, config: TuneConfig):
        self.reference = policy.model
        if config.method == "lora":
            model = with_lora(policy.model, config.rank, config.seed)
        else:
            model = copy.deepcopy(policy.model).requires_grad_(True)
            self.reference.requires_grad_(False)
        self.policy = Policy(model, policy.tokenizer, policy.name)
        self.is_fast = config.fast and can_share_prefix(model)
        learns = [parameter for parameter in model.parameters() if parameter.requires_grad]
        # Full tuning in bfloat16 keeps float32 masters: small updates would be lost in rounding.
        self._masters = [(p, nn.Parameter(p.detach().float())) for p in learns if p.dtype != torch.float32]
        self.trained = [master for _, master in self._masters] or learns
        self.critic: Critic | None = None
        if config.algorithm == "ppo":
            self.critic = Critic(model.config.get_text_config().hidden_size, config.seed).to(model.device)

    @property
    def model(self) -> Any:
        """The policy's language model."""
        return self.policy.model

    def everything(self) -> list[nn.Parameter]:
        """All parameters that learn, the critic's last: what a checkpoint keeps."""
        return [*self.trained, *(self.critic.parameters() if self.critic else ())]

    @torch.no_grad()
    def refresh(self) -> None:
        """Bring the model's weights up to the parameters that learn."""
        merge(self.model)
        for weight, master in self._masters:
            weight.copy_(master)

    @torch.no_grad()
    def gather_gradient(self) -> None:
        """Move gradient from bfloat16 weights to their float32 masters, adding up; call it after each backward."""
        for weight, master in self._masters:
            if weight.grad is not None:
                master.grad = weight.grad.float() if master.grad is None else master.grad.add_(weight.grad)
                weight.grad = None

    def parts(self, episodes: Sequence[Episode]) -> list[list[int]]:
        """Which episodes of a group go through the model together: those of like length, within the memory."""
        order = sorted(range(len(episodes)), key=lambda row: len(episodes[row].ids))
        parts: list[list[int]] = [[]]
        for row in order:
            length, first = len(episodes[row].ids), len(episodes[(parts[-1] or [row])[0]].ids)
            if parts[-1] and (length * (len(parts[-1]) + 1) > _MOST_TOKENS or length > 1.5 * first + 16):
                parts.append([])
            parts[-1].append(row)
        return [sorted(part) for part in parts]

    def logprobs(self, episodes: Sequence[Episode], *, of_reference: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        """Of a group: log-probabilities [N] (nats) of all action tokens, and the states [N, H] that chose them."""
        model = self.reference if of_reference else self.model
        if self.is_fast:
            return shared_logprobs(model, share_prefix(episodes, model.device))
        return plain_logprobs(model, collate(episodes, model.device))

    def save(self, folder: Path) -> None:
        """Write what was learned: the adapter, or the whole model after full tuning."""
        save_policy(self.model, self.policy.tokenizer, folder, base=self.policy.name)


class Critic(nn.Module):
    """The value head: the return still to come, predicted from the state [H] that chooses the next token.

    It reads the policy's states without passing gradient to them, so learning values never moves the policy.
    """

    def __init__(self, width: int, seed: int):
        super().__init__()
        torch.manual_seed(seed)
        self.hidden, self.value = nn.Linear(width, 256), nn.Linear(256, 1)
        nn.init.zeros_(self.value.weight)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """[N, H] to [N]."""
        value: torch.Tensor = self.value(torch.tanh(self.hidden(states.detach().float()))).squeeze(-1)
        return value
