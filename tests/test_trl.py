"""TRL: our scorers inside its trainer, its loss against ours on the same rollouts, and `--engine trl`."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM
from trl import RLOOConfig, RLOOTrainer

from rewards import composite
from storyrl.cli import main
from storyrl.config import TuneConfig
from storyrl.errors import InputError
from storyrl.models import load
from storyrl.policy import Policy
from storyrl.story import Prompt
from storyrl.tuning import trl_backend
from storyrl.tuning.experience import collect
from storyrl.tuning.learner import Learner
from storyrl.tuning.loop import _accumulate
from storyrl.tuning.losses import clipped_loss

from .conftest import word_tokenizer


def test_every_scorer_is_a_trl_reward_function(
    tmp_path: Path, tiny_folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    scorers = [term.scorer for term in composite.build().terms.values()]
    rows = [{"prompt": "Premise: A door.", "goal": "It opens.", "premise": "A door."}] * 4
    settings = RLOOConfig(
        output_dir=str(tmp_path / "out"),
        max_steps=1,
        per_device_train_batch_size=4,
        num_generations=2,
        max_completion_length=8,
        logging_steps=1,
        use_cpu=True,
        bf16=False,
        report_to=[],
    )
    trainer = RLOOTrainer(
        model=AutoModelForCausalLM.from_pretrained(tiny_folder(), dtype="float32"),
        reward_funcs=scorers,
        args=settings,
        train_dataset=Dataset.from_list(rows),
        processing_class=word_tokenizer(),
    )
    trainer.train()
    logged = trainer.state.log_history[0]
    for scorer in scorers:
        assert f"rewards/{scorer.name}/mean" in logged


def test_same_rollouts_give_the_same_loss_and_gradient(
    tmp_path: Path, tiny_folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two prompts with three stories each: advantages, RLOO loss and gradient of all weights, in TRL and here."""
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    monkeypatch.setattr("storyrl.models.cpu_has_bf16", lambda: False)  # both in float32, also where bfloat16 is fast
    folder, beta = str(tiny_folder()), 0.3
    prompts = [Prompt(id="a", premise="A door.", goal="It opens."), Prompt(id="b", premise="A cat waits.")]
    rewards = torch.tensor([[1.0, -0.5, 2.0], [0.0, 0.25, 0.5]])
    config = TuneConfig(policy=folder, method="full", beta=beta, prompts_per_step=2, samples_per_prompt=3, steps=1)
    learner = Learner(Policy(*load(folder, device="cpu"), name=folder), config)
    with torch.no_grad():  # so that there is a KL
        for parameter in learner.model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    rollouts = learner.policy.rollout(prompts, 3, 9, seed=4)
    batch = collect(learner, rollouts, [[float(r)] for r in rewards.flatten()], config, beta)
    ours = sum(_accumulate(learner, experience, config, stories=6).loss for experience in batch)
    surrogate = 0.0
    for experience in batch:
        logprobs, _ = learner.logprobs(experience.episodes)
        lengths = torch.tensor([len(a) for a in experience.advantages])
        flat = torch.cat(experience.advantages)
        surrogate += clipped_loss(logprobs.detach(), logprobs.detach(), flat, lengths, 0.2, 6)[0].item()

    trainer = trl_backend.make_trainer(config, prompts, composite.build({}), tmp_path, use_cpu=True)
    trainer.model.load_state_dict(learner.model.state_dict())
    episodes = [rollout.episode for rollout in rollouts]
    heads = [[t for t, a in zip(e.ids, e.is_action_token, strict=True) if not a] for e in episodes]
    tails = [[t for t, a in zip(e.ids, e.is_action_token, strict=True) if a] for e in episodes]
    wide, long = max(map(len, heads)), max(map(len, tails))
    inputs = {
        "prompt_ids": torch.tensor([[0] * (wide - len(h)) + h for h in heads]),
        "prompt_mask": torch.tensor([[0] * (wide - len(h)) + [1] * len(h) for h in heads]),
        "completion_ids": torch.tensor([t + [0] * (long - len(t)) for t in tails]),
        "completion_mask": torch.tensor([[1] * len(t) + [0] * (long - len(t)) for t in tails]),
    }
    ids, mask = (torch.cat([inputs[f"prompt_{k}"], inputs[f"completion_{k}"]], dim=1) for k in ("ids", "mask"))
    per_token = {}
    with torch.no_grad():
        for name, model in (("old", trainer.model), ("reference", trainer.ref_model)):
            per_token[name], *_ = trainer._get_per_token_logps_and_entropies(model, ids, mask, long)
    done = inputs["completion_mask"]
    shaped = rewards.flatten() - beta * ((per_token["old"] - per_token["reference"]) * done).sum(1)
    grouped = shaped.view(2, 3)  # TRL's own lines, in RLOOTrainer._generate_and_score_completions
    inputs["advantages"] = shaped - ((grouped.sum(1, keepdim=True) - grouped) / 2).flatten()
    inputs["old_logps"] = (per_token["old"] * done).sum(1)
    theirs = trainer._compute_loss(trainer.model, inputs)
    theirs.backward()

    own = torch.stack([a[0] for experience in batch for a in experience.advantages])
    assert torch.allclose(own, inputs["advantages"], atol=1e-4)
    assert surrogate == pytest.approx(theirs.item(), abs=1e-5)
    assert abs(ours - theirs.item()) > 1e-3  # REINFORCE's form has another value, and the same gradient:
    largest = 0.0
    for (name, mine), parameter in zip(learner.model.named_parameters(), trainer.model.parameters(), strict=True):
        assert torch.allclose(mine.grad, parameter.grad, atol=1e-5), name
        largest = max(largest, float(mine.grad.abs().max()))
    assert largest > 1e-2


def _arguments(tiny_folder: Any, tmp_path: Path) -> list[str]:
    (tmp_path / "prompts.txt").write_text("A cat waits.\nA dog waits.\nA door is shut.\n")
    settings = ["prompts_per_step=2", "samples_per_prompt=2", "max_tokens=8", "learning_rate=0.01"]
    sets = [part for setting in settings for part in ("--set", setting)]
    files = ["--prompts", str(tmp_path / "prompts.txt"), "--set", f"eval_prompts={tmp_path / 'prompts.txt'}"]
    run = ["--out", str(tmp_path / "run"), "--policy", str(tiny_folder()), "--steps", "2"]
    return ["tune", "--engine", "trl", *run, *files, *sets]


def _check_run(run: Path) -> None:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 1]
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert {"goal", "preference"} <= rows[0]["scores"].keys()
    adapter = json.loads((run / "policy" / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"].endswith("tiny-llama")
    before, after = (
        [json.loads(line) for line in (run / f"heldout_{when}.jsonl").read_text().splitlines()]
        for when in ("before", "after")
    )
    assert len(before) == len(after) == 3
    assert [row["text"] for row in before] != [row["text"] for row in after]
    assert (run / "report.html").exists()


def test_engine_trl(tmp_path: Path, tiny_folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    monkeypatch.setattr(sys, "argv", ["storyrl", *_arguments(tiny_folder, tmp_path)])
    with pytest.raises(SystemExit) as done:
        main()
    assert not done.value.code
    _check_run(tmp_path / "run")
    config = TuneConfig(policy=str(tiny_folder()), algorithm="ppo")
    with pytest.raises(InputError, match="has no 'algorithm'"):
        trl_backend.make_trainer(config, [Prompt(premise="A door.")], composite.build({}), tmp_path)


@pytest.mark.slow
def test_engine_trl_in_two_processes(tmp_path: Path, tiny_folder: Any) -> None:
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
    ]
    command = [*launch, "--mixed_precision", "no", "-m", "storyrl", *_arguments(tiny_folder, tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    _check_run(tmp_path / "run")


@pytest.mark.parametrize("name", ["deepspeed_zero2", "fsdp"])
def test_accelerate_reads_the_configs(name: str) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    path = Path(trl_backend.__file__).parent / "configs" / f"{name}.yaml"
    config = load_config_from_file(str(path))
    assert config.num_processes == 8
    assert config.distributed_type.value.lower() in name
