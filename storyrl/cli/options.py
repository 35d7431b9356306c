"""The command line's root, and the options that several commands share."""

from pathlib import Path
from typing import Annotated, Any

import typer

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


def examples(*lines: str) -> str:
    """The foot of a command's help."""
    return "\n\n".join(f"Example: {line}" for line in lines)


def load_agent(policy: str, device: str, taste: Path | None, reward: list[str] | None) -> Any:
    """The agent of `--policy`, `--taste` and `--reward`."""
    from rewards import composite
    from storyrl.agent import Agent
    from storyrl.policy import Policy

    scores = composite.build(composite.parse_weights(reward or []), device, taste)
    return Agent(Policy.load(policy, device), scores)
