"""A run that is killed and resumed ends bit-identical to one that was not; checkpoints are whole or absent."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from storyrl.config import TuneConfig
from storyrl.errors import InputError
from storyrl.policy import Policy
from storyrl.tuning import checkpoint
from storyrl.tuning.checkpoint import has_checkpoint, load_checkpoint, save_checkpoint
from storyrl.tuning.learner import Learner
from storyrl.tuning.loop import TuneState
from storyrl.tuning.run import TuningRun

from .conftest import tiny_model, word_tokenizer

_SETTINGS: dict[str, Any] = {
    "steps": 6,
    "prompts_per_step": 2,
    "samples_per_prompt": 3,
    "max_tokens": 12,
    "save_every": 2,
    "reward": {"goal": 0, "preference": 1},
    "eval_prompts": "",
    "target_kl": 0.5,
}
_RUN = """
import sys
from pathlib import Path
from storyrl.tuning.run import TuningRun
run = TuningRun.resume(Path(sys.argv[1]))
for step in run.steps():
    print(step.metrics["step"], flush=True)
"""


def _config(tiny_folder: Any, tmp_path: Path, **changes: Any) -> TuneConfig:
    (tmp_path / "prompts.txt").write_text("A cat waits.\nA dog waits.\nA door is shut.\n")
    return TuneConfig(policy=str(tiny_folder()), prompts=str(tmp_path / "prompts.txt"), **{**_SETTINGS, **changes})


def _outcome(run: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return load_file(run / "checkpoint" / "state.safetensors"), [{**row, "seconds": None} for row in rows]


def _same(one: Path, two: Path) -> None:
    (tensors, rows), (other_tensors, other_rows) = _outcome(one), _outcome(two)
    assert rows == other_rows
    assert tensors.keys() == other_tensors.keys()
    assert all(torch.equal(tensors[name], other_tensors[name]) for name in tensors)
    assert (one / "checkpoint" / "state.json").read_text() == (two / "checkpoint" / "state.json").read_text()


@pytest.mark.parametrize("changes", [{}, {"algorithm": "ppo", "epochs": 2, "minibatches": 2}, {"method": "full"}])
def test_stopped_and_resumed_is_bit_identical(tiny_folder: Any, tmp_path: Path, changes: dict[str, Any]) -> None:
    config = _config(tiny_folder, tmp_path, **changes)
    assert len(list(TuningRun(config, tmp_path / "whole", "cpu").steps())) == 6
    steps = TuningRun(config, tmp_path / "parts", "cpu").steps()
    for _ in range(3):  # one step past the checkpoint
        next(steps)
    steps.close()
    resumed = TuningRun.resume(tmp_path / "parts", "cpu")
    assert resumed.state.step == 2
    assert [step.metrics["step"] for step in resumed.steps()] == [2, 3, 4, 5]
    _same(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.slow
def test_killed_at_any_moment(tiny_folder: Any, tmp_path: Path) -> None:
    config = _config(tiny_folder, tmp_path, save_every=1)
    list(TuningRun(config, tmp_path / "whole", "cpu").steps())
    TuningRun(config, tmp_path / "killed", "cpu")
    for attempt in range(12):
        command = [sys.executable, "-c", _RUN, str(tmp_path / "killed")]
        child = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}
        )
        assert child.stdout
        if not child.stdout.readline():  # finished
            break
        time.sleep(0.013 * attempt)
        child.send_signal(signal.SIGKILL)
        child.wait()
    list(TuningRun.resume(tmp_path / "killed", "cpu").steps())
    _same(tmp_path / "whole", tmp_path / "killed")


def test_checkpoint_is_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = Policy(tiny_model("llama"), word_tokenizer(), "tiny")
    config = TuneConfig()
    learner = Learner(policy, config)
    state = TuneState.start(learner, config)
    folder = tmp_path / "checkpoint"
    assert not has_checkpoint(folder)
    save_checkpoint(folder, learner, state)
    state.step = 7
    real = os.rename

    def breaks(source: Any, target: Any) -> None:  # the disk fills between the two renames
        if Path(target) == folder:
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(checkpoint.os, "rename", breaks)
    with pytest.raises(InputError, match="cannot write the checkpoint"):
        save_checkpoint(folder, learner, state)
    monkeypatch.undo()
    assert has_checkpoint(folder)
    state.step = 3
    load_checkpoint(folder, learner, state)
    assert state.step == 0
    save_checkpoint(folder, learner, state)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
    other = Learner(Policy(tiny_model("llama"), word_tokenizer(), "tiny"), TuneConfig(rank=4))
    with pytest.raises(InputError, match="no checkpoint of this run"):
        load_checkpoint(folder, other, state)


def test_resume_needs_a_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no run to go on with"):
        TuningRun.resume(tmp_path)
