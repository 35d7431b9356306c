"""The same tuning through TRL's RLOOTrainer, for more than one device: `storyrl tune --engine trl`.

Same prompts, rewards and adapter; TRL samples, trains and, under `accelerate launch`, spreads the work (DeepSpeed,
FSDP, vLLM by accelerate's and TRL's settings; the README has the lines). Only the first process writes the run's files.
What it leaves out of our own loop: PPO, rewards by the turn, adaptive beta, alarms, resuming.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from prompts.readers import read_prompts
from prompts.template import head_ids
from rewards import composite
from rewards.composite import Composite
from storyrl import models
from storyrl.config import TuneConfig, to_toml
from storyrl.errors import InputError
from storyrl.files import append_jsonl, atomic_writer
from storyrl.policy import Policy
from storyrl.story import Prompt
from storyrl.tuning.run import check_new, write_heldout

_ONLY_OURS = ("algorithm", "reward_per", "discount", "minibatches", "target_kl", "kl_budget", "judge", "truncated")


def make_trainer(
    config: TuneConfig,
    prompts: Sequence[Prompt],
    reward: Composite,
    out: Path,
    on_step: Callable[[dict[str, Any]], None] = lambda metrics: None,
    **settings: Any,
) -> Any:
    """TRL's trainer for these settings; `settings` go to RLOOConfig as they are.

    Scores become rewards as in our composite, up to a constant that the baseline takes out.

    Raises:
        InputError: TRL is not installed, or a setting that only our engine has.
    """
    try:
        from datasets import Dataset
        from peft import LoraConfig
        from transformers import TrainerCallback
        from trl import RLOOConfig, RLOOTrainer
    except ImportError as error:
        raise InputError(f"--engine trl: {error.name} is not installed; do: pip install 'storyrl[trl]'") from error
    for name in _ONLY_OURS:
        if getattr(config, name) != getattr(TuneConfig(), name):
            raise InputError(f"--engine trl: has no '{name}'; leave it at its default or use our engine")
    model, tokenizer = models.load(config.policy, device="cpu")
    model.requires_grad_(config.method == "full")

    class Steps(TrainerCallback):
        """Hands each step's metrics on."""

        def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any) -> None:
            if logs and "reward" in logs:
                on_step(_metrics(state.global_step - 1, logs, reward))

    processes = PartialState().num_processes
    if config.prompts_per_step % processes:
        raise InputError(
            f"config key 'prompts_per_step': must be a multiple of the {processes} processes, "
            f"got {config.prompts_per_step}"
        )
    defaults: dict[str, Any] = {
        "output_dir": str(out / "trl"),
        "max_steps": config.steps,
        "per_device_train_batch_size": config.samples_per_prompt,
        "gradient_accumulation_steps": config.prompts_per_step // processes,
        "num_generations": config.samples_per_prompt,
        "num_iterations": config.epochs,
        "max_completion_length": config.max_tokens,
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": "constant",
        "beta": config.beta,
        "epsilon": config.clip,
        "max_grad_norm": config.max_grad_norm,
        "temperature": 1.0,
        "disable_dropout": True,
        "gradient_checkpointing": False,
        "reward_weights": [term.weight / term.deviation for term in reward.terms.values()],
        "logging_steps": 1,
        "save_strategy": "no",
        "use_vllm": config.vllm,
        "vllm_mode": "colocate",
        "report_to": [config.report_to] if config.report_to else [],
        "seed": config.seed,
        "bf16": model.dtype == torch.bfloat16,
        "use_cpu": PartialState().device.type == "cpu",  # transformers refuses bfloat16 on a CPU that is not asked for
        "disable_tqdm": True,
    }
    has_template = bool(getattr(tokenizer, "chat_template", None))
    heads = [tokenizer.decode(head_ids(p, tokenizer), skip_special_tokens=not has_template) for p in prompts]
    rows = [{"prompt": head, "goal": p.goal, "premise": p.premise} for head, p in zip(heads, prompts, strict=True)]
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=2 * config.rank,
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    return RLOOTrainer(
        model=model,
        reward_funcs=[term.scorer for term in reward.terms.values()],
        args=RLOOConfig(**{**defaults, **settings}),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=lora if config.method == "lora" else None,
        callbacks=[Steps()],
    )


def _metrics(step: int, logs: Mapping[str, Any], reward: Composite) -> dict[str, Any]:
    """TRL's log of a step under the names of metrics.jsonl, as far as TRL measures the same."""
    scores = {name: {"mean": logs[f"rewards/{name}/mean"], "std": logs[f"rewards/{name}/std"]} for name in reward.terms}
    constant = sum(term.weight * term.mean / term.deviation for term in reward.terms.values())
    tokens = logs["completions/mean_length"]
    return {
        "step": step,
        "reward": sum(t.weight * scores[name]["mean"] / t.deviation for name, t in reward.terms.items()) - constant,
        "reward_std": logs["reward_std"],
        "kl": logs.get("kl", 0.0) * tokens,
        "kl_per_token": logs.get("kl", 0.0),
        "scores": scores,
        "entropy": logs["entropy"],
        "tokens": tokens,
        "ended": 1 - logs["completions/clipped_ratio"],
        "loss": logs["loss"],
        "clip_fraction": logs["clip_ratio/region_mean"],
        "grad_norm": logs["grad_norm"],
        "seconds": {"step": logs["step_time"]},
    }


def run(config: TuneConfig, out: Path, on_step: Callable[[dict[str, Any]], None]) -> bool:
    """A whole run, as a folder like that of our engine: evaluate, train, save, evaluate. Every process calls it.

    Returns:
        Whether this is the main process.

    Raises:
        InputError: as `make_trainer`, or `out` exists.
    """
    check_new(out)
    PartialState().wait_for_everyone()  # before any of them writes there
    prompts = read_prompts(config.prompts)
    heldout = read_prompts(config.eval_prompts) if config.eval_prompts else []
    reward = composite.build(config.reward, "auto")

    def logged(metrics: dict[str, Any]) -> None:
        append_jsonl(out / "metrics.jsonl", [metrics])
        on_step(metrics)

    def evaluate(spec: str, when: str) -> None:
        if heldout:
            policy = Policy.load(spec)
            for _ in write_heldout(policy, heldout, reward, config, out / f"heldout_{when}.jsonl", spec):
                pass

    trainer = make_trainer(config, prompts, reward, out, logged)
    is_main = trainer.accelerator.is_main_process
    if is_main:
        with atomic_writer(out / "config.toml") as handle:
            handle.write(to_toml(config))
        evaluate(config.policy, "before")
    trainer.accelerator.wait_for_everyone()
    trainer.train()
    model = trainer.accelerator.unwrap_model(trainer.model)
    if is_main:
        _save(model, trainer.processing_class, out / "policy", config.policy)
        evaluate(str(out), "after")
    trainer.accelerator.wait_for_everyone()
    return bool(is_main)


def _save(model: Any, tokenizer: Any, folder: Path, base: str) -> None:
    """Write an adapter that names `base`, or the whole model."""
    if hasattr(model, "peft_config"):
        model.peft_config["default"].base_model_name_or_path = base
        model.save_pretrained(folder, save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)
    else:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
