"""A tuning run as a folder: evaluate, tune, log, save, evaluate again, report.

RUN/config.toml           the settings, complete
RUN/metrics.jsonl         one line a step
RUN/samples.jsonl         the step's best and worst story
RUN/alarms.jsonl          what looked wrong, and when
RUN/policy/               what was learned (a LoRA adapter that names its base, or a whole model)
RUN/checkpoint/           what `--resume` goes on from
RUN/heldout_before.jsonl  stories on held-out prompts, as `storyrl generate` writes them
RUN/heldout_after.jsonl
RUN/report.html
"""

import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from prompts.readers import read_prompts
from rewards import composite
from rewards.base import StoryText
from rewards.guards import GUARDS
from storyrl.config import TuneConfig, load_config, to_toml
from storyrl.errors import InputError
from storyrl.evaluate import Difference
from storyrl.files import append_jsonl, atomic_writer, read_jsonl, write_jsonl
from storyrl.generate import story_record
from storyrl.policy import Policy
from storyrl.report import write_report
from storyrl.story import Prompt
from storyrl.tuning.alarms import Watched, alarms, over_budget
from storyrl.tuning.checkpoint import has_checkpoint, load_checkpoint, save_checkpoint
from storyrl.tuning.learner import Learner
from storyrl.tuning.loop import Step, TuneState, tune
from storyrl.tuning.tracking import Tracker

_EVALUATION_BATCH = 40  # prompts at a time
_LOGS = ("metrics.jsonl", "samples.jsonl", "alarms.jsonl")


def check_new(out: Path) -> None:
    """Raises InputError if there is something at `out` already."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: exists already; choose a new folder, or go on with it: --resume {out}")


class TuningRun:
    """One run: its models, its prompts, its folder. Go through `evaluation`, `steps`, `evaluation` again, `report`."""

    def __init__(self, config: TuneConfig, out: Path, device: str = "auto"):
        check_new(out)
        self._load(config, out, device)
        with atomic_writer(out / "config.toml") as handle:
            handle.write(to_toml(config))

    @classmethod
    def resume(cls, out: Path, device: str = "auto") -> "TuningRun":
        """A run that was broken off, brought back to its last checkpoint (or its start).

        Raises:
            InputError: the folder holds no run, or its checkpoint is another model's.
        """
        if not (out / "config.toml").exists():
            raise InputError(f"{out}: holds no run to go on with (no config.toml); start one with --out {out}")
        run = cls.__new__(cls)
        run._load(load_config(out / "config.toml"), out, device)
        if has_checkpoint(out / "checkpoint"):
            load_checkpoint(out / "checkpoint", run.learner, run.state)
        for name in _LOGS:  # steps after the checkpoint are taken again
            if (out / name).exists():
                rows = [row for _, row in read_jsonl(out / name, torn_end=True) if row["step"] < run.state.step]
                write_jsonl(out / name, rows)
                if name == "metrics.jsonl":
                    run._rows = rows
        return run

    def _load(self, config: TuneConfig, out: Path, device: str) -> None:
        self.config, self.out = config, out
        self.prompts = read_prompts(config.prompts)
        self.heldout = read_prompts(config.eval_prompts) if config.eval_prompts else []
        taste = Path(config.taste) if config.taste else None
        self.reward = composite.build(config.reward, device, taste, config.judge)
        self.learner = Learner(Policy.load(config.policy, device), config)
        self.state = TuneState.start(self.learner, config)
        self._rows: list[dict[str, Any]] = []
        self._watched = [Watched(name, True) for name in GUARDS if name in self.reward.terms]
        if config.judge:
            self._watched.append(Watched(config.judge, False))

    def has_evaluation(self, when: str) -> bool:
        """Whether the held-out stories of "before" or "after" are written (or not asked for)."""
        return not self.heldout or (self.out / f"heldout_{when}.jsonl").exists()

    def evaluation(self, when: str) -> Iterator[int]:
        """Write stories for the held-out prompts ("before" or "after"); yields how many prompts are done."""
        self.learner.refresh()
        name = self.config.policy if when == "before" else str(self.out)
        path = self.out / f"heldout_{when}.jsonl"
        return write_heldout(self.learner.policy, self.heldout, self.reward, self.config, path, name)

    def steps(self) -> Iterator[Step]:
        """Tune; logs and saves after each step, and ends early when the KL budget is spent."""
        if over_budget(self._rows, self.config.kl_budget):
            return
        tracker = Tracker(self.config, self.out)
        try:
            for step in tune(self.learner, self.prompts, self.reward, self.config, self.state):
                self._rows.append(step.metrics)
                step.alarms = self._alarms(step.metrics["step"])
                tracker.log(step.metrics)
                append_jsonl(self.out / "metrics.jsonl", [step.metrics])
                append_jsonl(self.out / "samples.jsonl", list(_extremes(step, self.config)))
                is_last = self.state.step == self.config.steps or over_budget(self._rows, self.config.kl_budget)
                if is_last or self.state.step % self.config.save_every == 0:
                    self._save()
                yield step
                if is_last:
                    return
        except InputError:
            if self.config.updates_per_step == 1:  # nothing of the step was learned: keep the state before it
                self._save()
            raise
        finally:
            tracker.close()

    def _save(self) -> None:
        self.learner.refresh()
        self.learner.save(self.out / "policy")
        save_checkpoint(self.out / "checkpoint", self.learner, self.state)

    def _alarms(self, step: int) -> list[str]:
        found = alarms(self._rows, self._watched)
        if over_budget(self._rows, self.config.kl_budget):
            found.append(f"the KL budget of {self.config.kl_budget} nats a story is spent; the run ends here")
        if found:
            append_jsonl(self.out / "alarms.jsonl", [{"step": step, "alarm": text} for text in found])
        return found

    def report(self) -> list[Difference]:
        """Write report.html; returns the held-out differences (none without held-out prompts)."""
        return report_run(self.out)


def side_by_side(out: Path, prompt: Prompt) -> str:
    """A held-out prompt of a run with its story before and after, for a terminal."""
    lines = []
    for when in ("before", "after"):
        records = (record for _, record in read_jsonl(out / f"heldout_{when}.jsonl"))
        record = next(record for record in records if record["prompt"]["id"] == prompt.id)
        text = "\n".join(f"    {line}" for line in record["text"].split("\n\n"))
        lines.append(f"  {when} (goal {record['scores'].get('goal', 0):.2f}, reward {record['reward']:+.2f})\n{text}")
    return "\n".join([f"{prompt.premise} Goal: {prompt.goal}", *lines, ""])


def write_heldout(
    policy: Policy, prompts: Sequence[Prompt], reward: composite.Composite, config: TuneConfig, path: Path, name: str
) -> Iterator[int]:
    """Write stories of `policy`, called `name`, for held-out prompts; yields how many prompts are done.

    The random numbers depend on the run's seed only, so they are the same before and after.
    """
    records: list[dict[str, Any]] = []
    for start in range(0, len(prompts), _EVALUATION_BATCH):
        part = prompts[start : start + _EVALUATION_BATCH]
        rollouts = policy.rollout(part, config.eval_samples, config.max_tokens, seed=config.seed)
        scored = reward.score([StoryText.of(rollout.story) for rollout in rollouts])
        records += [
            story_record(r.story, s, name, config.seed, len(r.episode.behaviour_logprobs))
            for r, s in zip(rollouts, scored, strict=True)
        ]
        yield start + len(part)
    write_jsonl(path, records)


def report_run(out: Path) -> list[Difference]:
    """Write (again) the report of a run folder.

    Raises:
        InputError: the folder is no finished run.
    """
    paths = [out / "heldout_before.jsonl", out / "heldout_after.jsonl", out / "metrics.jsonl", out / "config.toml"]
    missing = [path.name for path in paths if not path.exists()]
    if missing:
        raise InputError(f"{out}: is no finished run with held-out stories ({', '.join(missing)} missing)")
    before, after, metrics = ([row for _, row in read_jsonl(path)] for path in paths[:3])
    settings = tomllib.loads(paths[3].read_text("utf-8"))
    subtitle = f"policy {settings['policy']}, {len(metrics)} steps on {settings['prompts']}"
    return write_report(
        out / "report.html",
        title=f"Tuning run {out.name}",
        subtitle=subtitle,
        before=before,
        after=after,
        metrics=metrics,
        settings=settings,
    )


def _extremes(step: Step, config: TuneConfig) -> Iterator[dict[str, Any]]:
    order = sorted(range(len(step.scored)), key=lambda row: step.scored[row].reward)
    for row in (order[-1], order[0]):
        rollout = step.rollouts[row]
        tokens = len(rollout.episode.behaviour_logprobs)
        record = story_record(rollout.story, step.scored[row], config.policy, config.seed, tokens)
        yield {"step": step.metrics["step"], **record}
