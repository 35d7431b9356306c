"""What changes weights: `storyrl sft`, `tune`, `fit preference`."""

from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from storyrl.cli.options import Db_, Device_, Policy_, Quiet_, Seed_, Taste_, Threads_, app, examples, fit_app
from storyrl.console import console, progress, say, set_up
from storyrl.errors import InputError


class Engine(StrEnum):
    """What tunes: the loop of storyrl/tuning/loop.py, or TRL."""

    OURS = "ours"
    TRL = "trl"


@app.command(epilog=examples("storyrl sft --stories my_stories.jsonl --out my-adapter"))
def sft(
    out: Annotated[Path, typer.Option("--out", help="New folder for the adapter.")],
    stories: Annotated[
        list[Path] | None,
        typer.Option("--stories", help="JSON Lines; may be repeated. Default: the stories that come with storyrl."),
    ] = None,
    policy: Policy_ = "smollm2",
    epochs: Annotated[int, typer.Option(min=1)] = 3,
    learning_rate: Annotated[float, typer.Option(min=0)] = 4e-4,
    held_out: Annotated[int, typer.Option("--held-out", min=1, help="Stories kept for perplexity.")] = 40,
    seed: Seed_ = 0,
    device: Device_ = "auto",
    threads: Threads_ = None,
    quiet: Quiet_ = False,
) -> None:
    """Teach a language model the turn format and the prose of written stories (LoRA)."""
    from storyrl.sft import SFTConfig, run_sft

    set_up(quiet, threads)
    config = SFTConfig(epochs=epochs, learning_rate=learning_rate, heldout=held_out, seed=seed)
    with progress("fine-tuning", None) as update:
        result = run_sft(policy, stories, out, config, device, update, say)
    for name, value in result.items():
        print(f"{name}: {value:.4g}")
    print(f"adapter: {out}")


@app.command(
    epilog=examples(
        "storyrl tune --out runs/first",
        "storyrl tune --prompts my.jsonl --out runs/mine --steps 50 --set beta=0.1",
        "storyrl tune --resume runs/mine",
    )
)
def tune(
    out: Annotated[Path | None, typer.Option("--out", help="New folder for the run.")] = None,
    resume: Annotated[Path | None, typer.Option("--resume", help="Go on with this run, as it was started.")] = None,
    prompts: Annotated[str | None, typer.Option(help="Prompt file, or starter:train.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps.")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with settings.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="key=value; may be repeated.")] = None,
    policy: Annotated[str | None, typer.Option("--policy", help="Where to start from; also the reference.")] = None,
    taste: Taste_ = None,
    engine: Annotated[Engine, typer.Option(help="Our loop, or TRL's trainer (several GPUs).")] = Engine.OURS,
    seed: Annotated[int | None, typer.Option("--seed")] = None,
    device: Device_ = "auto",
    threads: Threads_ = None,
    quiet: Quiet_ = False,
) -> None:
    """Tune a policy by KL-penalised policy gradient, and report the stories before and after."""
    from storyrl.config import load_config
    from storyrl.tuning.run import TuningRun

    set_up(quiet, threads)
    given = {"prompts": prompts, "steps": steps, "policy": policy, "seed": seed, "taste": taste and str(taste)}
    if (out is None) == (resume is None):
        raise InputError("tune: give --out FOLDER for a new run, or --resume FOLDER to go on with one")
    if resume and (config or set_ or engine is not Engine.OURS or any(value is not None for value in given.values())):
        raise InputError(f"--resume {resume}: goes on as the run was started; other settings need a new run (--out)")
    settings = load_config(config, set_ or [], **given)
    if settings.taste and engine is Engine.TRL:
        raise InputError("--engine trl: has no 'taste'; leave it out or use our engine")
    say("loading models ...")
    if out and engine is Engine.TRL:
        _tune_with_trl(settings, out)
        return
    if out:
        run = TuningRun(settings, out, device)
    else:
        assert resume is not None
        run = TuningRun.resume(resume, device)
        say(f"going on after step {run.state.step} of {run.config.steps}")
    _evaluate(run, "before")
    with progress("tuning", run.config.steps) as update:
        for step in run.steps():
            _tell(step.metrics, update)
            for alarm in step.alarms:
                say(f"ALARM at step {step.metrics['step']}: {alarm}")
    _evaluate(run, "after")
    _conclude(run.out, run.config)


def _tune_with_trl(settings: Any, out: Path) -> None:
    from storyrl.tuning import trl_backend

    with progress("tuning with TRL", settings.steps) as update:
        is_main = trl_backend.run(settings, out, lambda metrics: _tell(metrics, update))
    if is_main:
        _conclude(out, settings)


def _tell(metrics: Mapping[str, Any], update: Callable[..., None]) -> None:
    """A step's main numbers."""
    goal = metrics["scores"].get("goal", {}).get("mean", float("nan"))
    note = f"reward {metrics['reward']:+.2f}  goal {goal:.3f}  KL {metrics['kl']:.2f}"
    update(metrics["step"] + 1, note)
    if not console.is_terminal:
        say(f"step {metrics['step']}: {note}  ({sum(metrics['seconds'].values()):.1f} s)")


def _conclude(out: Path, settings: Any) -> None:
    """What a run changed: some stories side by side, the differences, and where the report is."""
    from prompts.readers import read_prompts
    from storyrl.tuning.run import report_run, side_by_side

    if settings.eval_prompts:
        differences = report_run(out)
        for prompt in read_prompts(settings.eval_prompts)[:3]:
            print(side_by_side(out, prompt))
        for difference in differences:
            print(difference.line())
        print(f"report: {out / 'report.html'}")
    print(f"policy: {out}")


def _evaluate(run: Any, when: str) -> None:
    if run.has_evaluation(when):
        return
    with progress(f"held-out stories {when}", len(run.heldout)) as update:
        for done in run.evaluation(when):
            update(done)


@fit_app.command(
    "preference",
    epilog=examples(
        "storyrl fit preference --db stories.db --out my-taste",
        "storyrl fit preference --pairs pairs.jsonl --out my-taste",
    ),
)
def fit_preference(
    out: Annotated[Path, typer.Option("--out", help="Folder for the weights.")],
    pairs: Annotated[Path | None, typer.Option(help="Pairs instead of the database's ratings.")] = None,
    picks: Annotated[bool, typer.Option("--picks", help="Count picks while writing too, as weak preferences.")] = False,
    db: Db_ = None,
    quiet: Quiet_ = False,
) -> None:
    """Learn a writer's taste from their choices, on top of the shipped preference model."""
    from rewards.choices import choices_from_pairs
    from storyrl.store import Store
    from storyrl.taste import check, choices_of, learn

    set_up(quiet, None)
    choices = choices_from_pairs(pairs) if pairs else choices_of(Store(db), picks)
    check(choices)
    with progress("reading the stories", 2 * len(choices)) as update:
        written = learn(choices, out, update)
    print(f"{written}: learned from {len(choices)} choices")
