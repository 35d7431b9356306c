"""Settings from TOML and from the command line into frozen dataclasses; an unknown key or a wrong type is an error."""

import dataclasses
import tomllib
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from storyrl.errors import InputError, nearest
from storyrl.files import read_text


@dataclass(frozen=True)
class TuneConfig:
    """Settings of `storyrl tune`."""

    policy: str = "storyteller"
    """Spec of the policy to start from; it is also the frozen reference."""
    prompts: str = "starter:train"
    """Prompt file or starter set to write stories for."""
    steps: int = 24
    """Optimiser steps."""
    prompts_per_step: int = 4
    """Prompts in one step."""
    samples_per_prompt: int = 8
    """Stories for each prompt of a step: the group within which the baseline is taken (at least 2)."""
    max_tokens: int = 112
    """Most tokens of a story."""
    algorithm: Literal["rloo", "reinforce", "grpo", "ppo"] = "rloo"
    """Where advantages come from: the mean of the prompt's other stories, of the batch, the group's mean and deviation,
    or a critic."""
    reward_per: Literal["story", "turn"] = "story"
    """Reward the story at its end, or each turn with what it added to the reward of the story so far."""
    discount: float = 1.0
    """By the turn: what a reward is worth one turn earlier."""
    epochs: int = 1
    """Passes over a step's stories; with more than one update a step the ratio is clipped."""
    minibatches: int = 1
    """Updates in a pass, each on its share of the prompts."""
    clip: float = 0.2
    """How far the ratio to the policy that sampled may move a token's probability before its gradient stops."""
    gae_lambda: float = 0.95
    """PPO: how far advantages trust rewards (1) over the critic (0)."""
    critic_learning_rate: float = 1e-3
    """PPO: AdamW's learning rate of the critic."""
    learning_rate: float = 3e-4
    """AdamW's learning rate, constant."""
    beta: float = 0.1
    """Weight of the KL to the reference, in reward (deviations) a nat."""
    target_kl: float = 0.0
    """Change beta after each step so that a story's KL comes to this many nats; 0: leave it as it is."""
    kl_horizon: int = 1000
    """How slowly target_kl moves beta, in stories."""
    kl_budget: float = 0.0
    """Stop when the KL, over the last five steps, is above this many nats a story; 0: never."""
    judge: str = ""
    """A score that is watched and not rewarded: a term whose weight is 0, or module:function. An alarm tells when it
    falls while the reward rises."""
    method: Literal["lora", "full"] = "lora"
    """Train a LoRA adapter, or all weights (then the reference is a frozen copy)."""
    rank: int = 16
    """Rank of the LoRA adapter."""
    max_grad_norm: float = 1.0
    """The gradient is scaled down to this norm."""
    fast: bool = True
    """Read each prompt once for its stories, where the model allows it; the results are the same."""
    reward: Mapping[str, float] = field(default_factory=dict)
    """Weights of the reward's terms, e.g. goal = 1.0; terms that are not named keep their default, 0 switches one off,
    and "module:function" = 1.0 adds a reward function of your own with TRL's signature."""
    taste: str = ""
    """Folder of `storyrl fit preference`, whose taste the preference term then has; empty: as shipped."""
    truncated: Literal["keep", "drop"] = "keep"
    """Stories that met max_tokens: learn from them like from others, or give them no gradient."""
    eval_prompts: str = "starter:heldout"
    """Held-out prompts for the stories before and after; empty: no evaluation."""
    eval_samples: int = 1
    """Stories for each held-out prompt."""
    save_every: int = 10
    """Steps between checkpoints, from which --resume goes on, and saves of the policy."""
    vllm: bool = False
    """--engine trl: sample with vLLM in the training processes (GPUs only)."""
    report_to: Literal["", "tensorboard", "trackio", "wandb"] = ""
    """Also send the metrics to this tracker (to be installed apart)."""
    seed: int = 0

    def __post_init__(self) -> None:
        limits = {"steps": 1, "prompts_per_step": 1, "samples_per_prompt": 2, "max_tokens": 8, "rank": 1}
        counts = dict.fromkeys(("eval_samples", "save_every", "epochs", "minibatches", "kl_horizon"), 1)
        for name, least in {**limits, **counts}.items():
            if getattr(self, name) < least:
                raise InputError(f"config key '{name}': must be at least {least}, got {getattr(self, name)}")
        for name in ("learning_rate", "critic_learning_rate", "max_grad_norm", "clip"):
            if not 0 < getattr(self, name) < float("inf"):
                raise InputError(f"config key '{name}': must be above 0, got {getattr(self, name)}")
        for name in ("beta", "target_kl", "kl_budget"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InputError(f"config key '{name}': must be 0 or more, got {getattr(self, name)}")
        for name in ("discount", "gae_lambda"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"config key '{name}': must be from 0 to 1, got {getattr(self, name)}")
        if self.target_kl and not self.beta:
            raise InputError("config key 'beta': target_kl changes it by factors, so it must start above 0")
        if self.discount < 1 and self.reward_per == "story":
            raise InputError("config key 'discount': needs reward_per = \"turn\"; a story's reward has one date only")
        if self.minibatches > self.prompts_per_step:
            raise InputError(
                f"config key 'minibatches': at most prompts_per_step ({self.prompts_per_step}), got {self.minibatches}"
            )

    @property
    def updates_per_step(self) -> int:
        """Optimiser steps in one step of sampling."""
        return self.epochs * self.minibatches


def load_config(path: Path | None, overrides: Sequence[str] = (), **direct: Any) -> TuneConfig:
    """Defaults, then the TOML file, then `key=value` overrides, then `direct` values that are not None.

    Raises:
        InputError: unreadable file, unknown key (the nearest one is named), wrong type or value.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = tomllib.loads(read_text(path))
        except tomllib.TOMLDecodeError as error:
            raise InputError(f"{path}: not valid TOML ({error})") from error
        _check(values, str(path))
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise InputError(f"--set {override}: expected key=value")
        given = _nested(key.strip().split(".", 1), _value(text.strip()))
        _check(given, f"--set {override}")
        for name, value in given.items():
            merge = isinstance(value, dict) and isinstance(values.get(name), dict)
            values[name] = {**values[name], **value} if merge else value
    values.update({key: value for key, value in direct.items() if value is not None})
    return TuneConfig(**values)


def _value(text: str) -> Any:
    """`text` as a TOML value; a bare word is a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _nested(keys: Sequence[str], value: Any) -> dict[str, Any]:
    return {keys[0]: value if len(keys) == 1 else _nested(keys[1:], value)}


def _check(values: Mapping[str, Any], where: str) -> None:
    types = typing.get_type_hints(TuneConfig)
    for key, value in values.items():
        if key not in types:
            raise InputError(f"{where}: unknown key '{key}'{nearest(key, types)}")
        expected = types[key]
        if expected is float and isinstance(value, int) and not isinstance(value, bool):
            continue
        if typing.get_origin(expected) is Literal:
            if value not in typing.get_args(expected):
                raise InputError(f"{where}: key '{key}': expected one of {typing.get_args(expected)}, got {value!r}")
        elif key == "reward":
            if not isinstance(value, dict) or not all(_is_number(weight) for weight in value.values()):
                raise InputError(f"{where}: key 'reward': expected a table of numbers, got {value!r}")
        elif not isinstance(value, expected) or (expected is not bool and isinstance(value, bool)):
            raise InputError(f"{where}: key '{key}': expected {expected.__name__}, got {value!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def to_toml(config: TuneConfig) -> str:
    """The settings as TOML that `load_config` reads back."""
    plain = {key: value for key, value in dataclasses.asdict(config).items() if key != "reward"}
    lines = [f"{key} = {_toml(value)}" for key, value in plain.items()]
    lines += ["", "[reward]", *(f"{_toml(key)} = {_toml(value)}" for key, value in config.reward.items())]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = "".join(f"\\u{ord(c):04x}" if ord(c) < 32 or c in '"\\' else c for c in value)
        return f'"{escaped}"'
    return repr(value)
