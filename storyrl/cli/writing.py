"""Stories to files: `storyrl generate`, `score`, `report`."""

from pathlib import Path
from typing import Annotated

import typer

from storyrl.cli.options import (
    Device_,
    Policy_,
    Quiet_,
    Reward_,
    Seed_,
    Taste_,
    Threads_,
    app,
    examples,
    load_agent,
)
from storyrl.console import progress, set_up
from storyrl.errors import InputError


@app.command(
    epilog=examples(
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
    agent = load_agent(policy, device, taste, reward)
    with progress("stories", len(chosen)) as update:
        count = write_stories(
            agent, chosen, out, turns=turns, candidates=candidates, seed=seed, batch_size=batch_size, progress=update
        )
    print(f"{out}: {count} stories")


@app.command(
    epilog=examples(
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


@app.command(
    epilog=examples("storyrl report runs/demo", "storyrl report --before a.jsonl --after b.jsonl --out compare.html")
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
