"""Our engine beside TRL's RLOOTrainer on the same work, in one run: `make bench-tune`.

Bundled policy, default rewards, 8 prompts x 8 stories x 64 new tokens, temperature 1, beta 0.1, LoRA r = 16 on all
linear layers (or full tuning). Every contender runs in a process of its own, so that its peak memory is its own; the
first step of each warms up and is not counted. Run it on a machine that does nothing else.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_SHAPE = {"prompts_per_step": 8, "samples_per_prompt": 8, "max_tokens": 64, "beta": 0.1}
_CONTENDERS = ("ours", "ours, plain path", "TRL, best", "TRL, defaults")


def main() -> None:
    """Run all contenders, print the table and the breakdown."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=1, help="steps that count, after one to warm up")
    parser.add_argument("--method", choices=("lora", "full"), default="lora")
    parser.add_argument("--curve", action="store_true", help="ours alone, over batch, length and group size")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--shape", type=json.loads, default={}, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(_measure(options.only, options.method, options.steps, options.shape)))
        return
    peak = _gemm_peak()
    print(f"matrix products: {peak:.0f} GFLOP/s in the dtype that is used here, {os.cpu_count()} cores\n")
    if options.curve:
        _curve(options.method, options.steps)
        return
    rows = {name: _child(name, options.method, options.steps, {}) for name in _CONTENDERS}
    print(f"{'':20}{'s a step':>10}{'tokens/s':>10}{'peak GB':>9}{'ours is faster':>16}{'memory':>9}")
    ours = rows["ours"]
    for name, row in rows.items():
        ratio, memory = row["seconds"] / ours["seconds"], row["peak_gb"] / ours["peak_gb"]
        print(
            f"{name:20}{row['seconds']:10.1f}{row['tokens'] / row['seconds']:10.1f}{row['peak_gb']:9.1f}"
            f"{ratio:15.2f}x{memory:8.2f}x   steps: {', '.join(f'{s:.1f}' for s in row['steps'])}"
        )
    print("\nour step by phase:")
    for phase, seconds in ours["phases"].items():
        share = ours["flop"].get(phase, 0.0) / (seconds * peak * 1e9)
        print(f"  {phase:12}{seconds:7.2f} s   {share:6.0%} of the peak" if share else f"  {phase:12}{seconds:7.2f} s")


def _curve(method: str, steps: int) -> None:
    for name, values in (
        ("prompts_per_step", (2, 4, 8, 16)),
        ("max_tokens", (32, 64, 128)),
        ("samples_per_prompt", (4, 8, 16)),
    ):
        for value in values:
            row = _child("ours", method, steps, {name: value})
            print(
                f"{name} = {value:3}: {row['seconds']:6.1f} s, {row['tokens'] / row['seconds']:6.1f} tokens/s",
                flush=True,
            )


def _child(name: str, method: str, steps: int, shape: dict[str, int]) -> dict[str, Any]:
    arguments = ["--only", name, "--method", method, "--steps", str(steps), "--shape", json.dumps(shape)]
    command = [sys.executable, "-m", "tests.bench.tune", *arguments]
    print(f"{name} ...", file=sys.stderr, flush=True)
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TRL_EXPERIMENTAL_SILENCE": "1"})
    if done.returncode:
        sys.exit(f"{name}: {done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def _measure(name: str, method: str, steps: int, shape: dict[str, int]) -> dict[str, Any]:
    from prompts.readers import read_prompts
    from rewards import composite
    from storyrl.config import TuneConfig

    settings: dict[str, Any] = {**_SHAPE, **shape, "method": method, "steps": steps + 1}
    config = TuneConfig(**settings, fast=name != "ours, plain path", learning_rate=1e-4)
    prompts, reward = read_prompts(config.prompts), composite.build({})
    run = _ours if name.startswith("ours") else _trl(name)
    rows = run(config, prompts, reward)[1:]
    stories = config.prompts_per_step * config.samples_per_prompt
    return {
        "seconds": statistics.median(sum(row["seconds"].values()) for row in rows),
        "steps": [sum(row["seconds"].values()) for row in rows],
        "phases": {phase: statistics.median(row["seconds"][phase] for row in rows) for phase in rows[0]["seconds"]},
        "tokens": statistics.mean(row["tokens"] for row in rows) * stories,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "flop": _flop(config, statistics.mean(row["tokens"] for row in rows) * stories),
    }


def _ours(config: Any, prompts: Any, reward: Any) -> list[dict[str, Any]]:
    from storyrl.policy import Policy
    from storyrl.tuning.learner import Learner
    from storyrl.tuning.loop import tune

    learner = Learner(Policy.load(config.policy), config)
    return [step.metrics for step in tune(learner, prompts, reward, config)]


def _trl(name: str) -> Callable[..., list[dict[str, Any]]]:
    def run(config: Any, prompts: Any, reward: Any) -> list[dict[str, Any]]:
        from storyrl import packed
        from storyrl.tuning.trl_backend import make_trainer

        packed.HAS_ONEDNN = False  # TRL with the layers that its users have
        settings: dict[str, Any] = {"use_cpu": True}
        if name == "TRL, best":  # checkpointing and dropout are off already
            settings |= {"per_device_train_batch_size": 16, "gradient_accumulation_steps": 4}
        else:
            settings |= {"gradient_checkpointing": True, "disable_dropout": False}
        rows: list[dict[str, Any]] = []
        started = 0.0

        def clock(metrics: dict[str, Any]) -> None:  # TRL's own step time leaves the optimiser out
            nonlocal started
            now = time.perf_counter()
            rows.append({**metrics, "seconds": {"step": now - started}})
            started = now

        with tempfile.TemporaryDirectory() as folder:
            trainer = make_trainer(config, prompts, reward, Path(folder), clock, **settings)
            started = time.perf_counter()
            trainer.train()
        return rows

    return run


def _flop(config: Any, tokens: float) -> dict[str, float]:
    """Floating-point operations of the phases on the bundled model: 2 a weight and token forward, 4 and a bit with
    backward by activations (LoRA), 6 with full gradients; the head is read at action tokens only."""
    body, head = 106.2e6, 28.3e6
    forward = 2 * tokens * (body + head)
    backward = (2 if config.method == "lora" else 4) * tokens * body + 2 * tokens * head
    return {"sampling": forward, "reference": forward, "gradient": forward + backward}


def _gemm_peak() -> float:
    """GFLOP/s of a product of two matrices of 2,048 rows, the best of five."""
    import torch

    from storyrl.models import fast_dtype

    a, b = (torch.randn(2048, 2048, dtype=fast_dtype("cpu")) for _ in range(2))
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - start)
    return 2 * 2048**3 / best / 1e9


if __name__ == "__main__":
    main()
