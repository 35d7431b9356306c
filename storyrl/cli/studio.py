"""The page and what it gathers: `storyrl studio`, `studio-password`, `ratings export`."""

from pathlib import Path
from typing import Annotated

import typer

from storyrl.cli.options import (
    Db_,
    Device_,
    Policy_,
    Quiet_,
    Reward_,
    Taste_,
    Threads_,
    app,
    examples,
    load_agent,
    ratings_app,
)
from storyrl.console import say, set_up


@app.command(epilog=examples("storyrl studio", "storyrl studio --policy runs/demo --port 8000"))
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
    from storyrl.threads import aside

    set_up(quiet, threads)
    from ui.app import launch
    from ui.users import Door

    store, door = Store(db), Door(auth_file) if auth_file else None
    say("loading models ...")
    agent = aside(lambda: load_agent(policy, device, taste, reward))
    launch(agent, store, host, port, browser, door)


@app.command("studio-password", epilog=examples("storyrl studio-password Ann --auth-file users.txt"))
def studio_password(
    name: Annotated[str, typer.Argument(help="Who signs in. 'local' has the library of the studio without accounts.")],
    auth_file: Annotated[Path, typer.Option("--auth-file", help="Made, if it is not there.")],
) -> None:
    """Let somebody sign in to the studio, or change the password; asks for it twice."""
    from ui.users import set_password

    password = typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    is_new = set_password(auth_file, name, password)
    print(f"{auth_file}: {name} {'may sign in' if is_new else 'has another password'}")


@ratings_app.command("export", epilog=examples("storyrl ratings export --out pairs.jsonl"))
def ratings_export(out: Annotated[Path, typer.Option("--out", help="JSON Lines.")], db: Db_ = None) -> None:
    """Write the preferences that the ratings amount to: {prompt, chosen, rejected, margin, ...} a line."""
    from storyrl.files import write_jsonl
    from storyrl.store import Store, preferences

    rows = preferences(Store(db))
    write_jsonl(out, rows)
    print(f"{out}: {len(rows)} pairs")
