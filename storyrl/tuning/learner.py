"""The three copies of the language model that tuning needs: the one that learns, the frozen reference, the sampler.

With LoRA the reference is the learning model with its adapter switched off, so it costs no memory. The sampler is a
plain model into which the learned weights are merged before each step: it decodes faster than a model with adapters.
"""

import contextlib
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora import LoraLayer

from storyrl.config import TuneConfig
from storyrl.policy import Policy
from storyrl.tuning.adapter import add_lora, save_policy


class Learner:
    """A policy under training.

    Attributes:
        model: gets gradient.
        sampler: a Policy whose weights follow the model's at `refresh`.
        trained: the parameters that learn.
    """

    def __init__(self, policy: Policy, config: TuneConfig):
        base = policy.model
        self.sampler = Policy(copy.deepcopy(base), policy.tokenizer, policy.name)
        self._is_lora = config.method == "lora"
        if self._is_lora:
            self.model = add_lora(base, config.rank, policy.name, config.seed)
            self._frozen = None
        else:
            self._frozen = copy.deepcopy(base)
            self.model = base.float().requires_grad_(True)
        self.trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self._autocast = self.sampler.model.dtype == torch.bfloat16

    def refresh(self) -> None:
        """Bring the sampler's weights up to the learned ones."""
        with torch.no_grad():
            if not self._is_lora:
                for target, source in zip(self.sampler.model.parameters(), self.model.parameters(), strict=True):
                    target.copy_(source)
                return
            for name, layer in self.model.get_base_model().named_modules():
                if isinstance(layer, LoraLayer):
                    merged = layer.get_base_layer().weight.float() + layer.get_delta_weight("default").float()
                    self.sampler.model.get_submodule(name).weight.copy_(merged)

    @contextlib.contextmanager
    def reference(self) -> Iterator[Any]:
        """The frozen reference, without gradient."""
        with torch.no_grad():
            if self._frozen is not None:
                yield self._frozen
            else:
                with self.model.disable_adapter():
                    yield self.model

    def autocast(self) -> torch.autocast:
        """The arithmetic that policy and reference share, so that their KL at the first step is exactly 0."""
        return torch.autocast(self.model.device.type, dtype=torch.bfloat16, enabled=self._autocast)

    def save(self, folder: Path) -> None:
        """Write what was learned: the adapter, or the whole model after full tuning."""
        save_policy(self.model, self.sampler.tokenizer, folder)
