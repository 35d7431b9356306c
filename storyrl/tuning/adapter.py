"""LoRA adapters: putting one on a policy, and saving it so that it names its base."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from storyrl.errors import InputError


def add_lora(model: Any, rank: int, base: str, seed: int) -> Any:
    """`model` with a fresh LoRA adapter (Hu et al. 2021) on all its linear layers; only the adapter gets gradient.

    B starts at zero, so the adapted model equals its base until the first step. The adapter's weights are float32
    whatever the base's are. `base` is the spec that the saved adapter will name.
    """
    torch.manual_seed(seed)
    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    adapted = get_peft_model(model, config, autocast_adapter_dtype=True)
    adapted.peft_config["default"].base_model_name_or_path = base
    return adapted


def save_policy(model: Any, tokenizer: Any, folder: Path, dtype: torch.dtype | None = None) -> None:
    """Write an adapter (or, after full tuning, the whole model) as `folder`, replacing it in one rename."""
    folder = Path(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
            built, old = Path(scratch) / "built", Path(scratch) / "old"
            state = {name: tensor.to(dtype) for name, tensor in model.state_dict().items()} if dtype else None
            if hasattr(model, "peft_config"):
                # Embeddings are never trained; saying so keeps peft from asking the hub about the base.
                model.save_pretrained(built, state_dict=state, save_embedding_layers=False)
                (built / "README.md").unlink(missing_ok=True)
            else:
                model.save_pretrained(built)
                tokenizer.save_pretrained(built)
            if folder.exists():
                os.rename(folder, old)
            os.rename(built, folder)
            shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot write the policy ({error.strerror or error})") from error
