"""Checkpoints: all that a run needs to go on as if it had never stopped. Whole or absent, and never pickled.

    RUN/checkpoint/state.safetensors   the float32 parameters that learn, and the optimiser's moments
    RUN/checkpoint/state.json          step, beta

Prompts and random numbers of a step depend on the seed and the step's number only, so no random state is kept.
"""

import json
import os
import shutil
import tempfile
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from storyrl.errors import InputError
from storyrl.tuning.learner import Learner
from storyrl.tuning.loop import TuneState


def save_checkpoint(folder: Path, learner: Learner, state: TuneState) -> None:
    """Write `folder`, replacing an older checkpoint by renaming: a kill at any moment leaves one of the two.

    Raises:
        InputError: it cannot be written.
    """
    tensors = {}
    for number, parameter in enumerate(learner.everything()):
        tensors[f"parameter.{number}"] = parameter.detach().contiguous()
        for name, moment in state.optimiser.state[parameter].items():
            tensors[f"{name}.{number}"] = torch.as_tensor(moment).contiguous()
    old = _previous(folder)
    try:
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
            built = Path(scratch) / "built"
            built.mkdir()
            save_file(tensors, str(built / "state.safetensors"))
            (built / "state.json").write_text(json.dumps({"step": state.step, "beta": state.controller.beta}))
            for file in built.iterdir():
                _sync(file)
            shutil.rmtree(old, ignore_errors=True)
            if folder.exists():
                os.rename(folder, old)
            os.rename(built, folder)
            shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise InputError(
            f"{folder}: cannot write the checkpoint ({error.strerror or error}); free some space"
        ) from error


def has_checkpoint(folder: Path) -> bool:
    """Whether there is one to load."""
    return folder.exists() or _previous(folder).exists()


def load_checkpoint(folder: Path, learner: Learner, state: TuneState) -> None:
    """Bring learner and state to what was saved.

    Raises:
        InputError: no checkpoint, or not one of this run's model.
    """
    found = folder if folder.exists() else _previous(folder)  # killed between two renames
    try:
        tensors = load_file(str(found / "state.safetensors"))
        numbers = json.loads((found / "state.json").read_text())
        with torch.no_grad():
            for number, parameter in enumerate(learner.everything()):
                parameter.copy_(tensors.pop(f"parameter.{number}"))
                names = [name for name in tensors if name.endswith(f".{number}")]
                state.optimiser.state[parameter] = {name.rpartition(".")[0]: tensors.pop(name) for name in names}
        if tensors:
            raise KeyError(next(iter(tensors)))
        state.step, state.controller.beta = int(numbers["step"]), float(numbers["beta"])
    except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{found}: no checkpoint of this run ({error}); start the run anew in another folder"
        ) from error


def _previous(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.previous")


def _sync(path: Path) -> None:
    with path.open("rb") as handle:
        os.fsync(handle.fileno())
