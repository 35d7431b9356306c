"""A tuning run as a folder: evaluate, tune, log, save, evaluate again, report.

    RUN/config.toml           the settings, complete
    RUN/metrics.jsonl         one line a step
    RUN/samples.jsonl         the step's best and worst story
    RUN/policy/               what was learned (a LoRA adapter that names its base, or a whole model)
    RUN/heldout_before.jsonl  stories on held-out prompts, as `storyrl generate` writes them
    RUN/heldout_after.jsonl
    RUN/report.html

What it leaves out: resuming.
"""

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prompts.readers import read_prompts
from rewards import composite
from rewards.base import StoryText
from storyrl.config import TuneConfig, to_toml
from storyrl.errors import InputError
from storyrl.evaluate import Difference
from storyrl.files import append_jsonl, atomic_writer, read_jsonl, write_jsonl
from storyrl.generate import story_record
from storyrl.policy import Policy
from storyrl.report import write_report
from storyrl.tuning.learner import Learner
from storyrl.tuning.loop import Step, tune

_EVALUATION_BATCH = 40  # prompts at a time


class TuningRun:
    """One run: its models, its prompts, its folder. Make it, then go through `evaluate`, `steps`, `finish`."""

    def __init__(self, config: TuneConfig, out: Path, device: str = "auto"):
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise InputError(f"{out}: exists already; choose a new folder for the run")
        self.config, self.out = config, out
        self.prompts = read_prompts(config.prompts)
        self.heldout = read_prompts(config.eval_prompts) if config.eval_prompts else []
        self.reward = composite.build(config.reward, device)
        self.learner = Learner(Policy.load(config.policy, device), config)
        with atomic_writer(out / "config.toml") as handle:
            handle.write(to_toml(config))

    def evaluation(self, when: str) -> Iterator[int]:
        """Write stories for the held-out prompts ("before" or "after"); yields how many prompts are done.

        The random numbers are the same before and after.
        """
        self.learner.refresh()
        records: list[dict[str, Any]] = []
        config = self.config
        for start in range(0, len(self.heldout), _EVALUATION_BATCH):
            prompts = self.heldout[start : start + _EVALUATION_BATCH]
            rollouts = self.learner.sampler.rollout(prompts, config.eval_samples, config.max_tokens, seed=config.seed)
            scored = self.reward.score([StoryText.of(rollout.story) for rollout in rollouts])
            name = config.policy if when == "before" else str(self.out)
            records += [
                story_record(r.story, s, name, config.seed, len(r.episode.behaviour_logprobs))
                for r, s in zip(rollouts, scored, strict=True)
            ]
            yield start + len(prompts)
        write_jsonl(self.out / f"heldout_{when}.jsonl", records)

    def steps(self) -> Iterator[Step]:
        """Tune; logs and saves after each step."""
        for step in tune(self.learner, self.prompts, self.reward, self.config):
            append_jsonl(self.out / "metrics.jsonl", [step.metrics])
            append_jsonl(self.out / "samples.jsonl", list(_extremes(step, self.config)))
            number = step.metrics["step"] + 1
            if number % self.config.save_every == 0 or number == self.config.steps:
                self.learner.save(self.out / "policy")
            yield step

    def report(self) -> list[Difference]:
        """Write report.html; returns the held-out differences (none without held-out prompts)."""
        return report_run(self.out)

    def side_by_side(self, number: int) -> str:
        """Held-out prompt `number` with its story before and after, for a terminal."""
        prompt, lines = self.heldout[number], []
        for when in ("before", "after"):
            records = (record for _, record in read_jsonl(self.out / f"heldout_{when}.jsonl"))
            record = next(record for record in records if record["prompt"]["id"] == prompt.id)
            text = "\n".join(f"    {line}" for line in record["text"].split("\n\n"))
            lines.append(
                f"  {when} (goal {record['scores'].get('goal', 0):.2f}, reward {record['reward']:+.2f})\n{text}"
            )
        return "\n".join([f"{prompt.premise} Goal: {prompt.goal}", *lines, ""])


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
