"""A run's metrics to TensorBoard, trackio or wandb, through accelerate's trackers."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from storyrl.config import TuneConfig
from storyrl.errors import InputError


class Tracker:
    """Sends each step's metrics to the tracker that the settings name, or nowhere."""

    def __init__(self, config: TuneConfig, out: Path):
        self._accelerator: Any = None
        if not config.report_to:
            return
        from accelerate import Accelerator

        try:
            self._accelerator = Accelerator(log_with=config.report_to, project_dir=str(out))
            settings = {k: v for k, v in dataclasses.asdict(config).items() if isinstance(v, int | float | str)}
            self._accelerator.init_trackers("storyrl", settings)
        except (ImportError, ValueError) as error:
            raise InputError(
                f"config key 'report_to': {config.report_to} is not usable ({error}); pip install {config.report_to}"
            ) from error

    def log(self, metrics: Mapping[str, Any]) -> None:
        """One step; nested numbers get names like `scores/goal/mean`."""
        if self._accelerator:
            self._accelerator.log(flat(metrics), step=metrics["step"])

    def close(self) -> None:
        """Write what is left."""
        if self._accelerator:
            self._accelerator.end_training()


def flat(metrics: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Nested numbers as one level, joined by slashes."""
    found: dict[str, float] = {}
    for name, value in metrics.items():
        found |= flat(value, f"{prefix}{name}/") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found
