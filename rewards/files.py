"""Weights on disk: safetensors, written whole or not at all."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from storyrl.errors import InputError


def write_tensors(tensors: Mapping[str, Tensor], path: Path) -> Path:
    """Write tensors as a safetensors file, whole or not at all.

    Raises:
        InputError: the folder cannot be written or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            built = Path(scratch) / path.name
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, built)
            built.chmod(0o644)
            built.replace(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot write ({getattr(error, 'strerror', None) or error})") from error
    return path


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        InputError: no such file, or no safetensors.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: no weights that can be read ({error})") from error
