"""The `storyrl` command: thin commands that wire the parts together, a file for each kind.

Results go to standard output or the named file, messages and progress to standard error. Exit codes: 0 done, 2 bad
input, 1 a fault of storyrl, 130 interrupted.
"""

import sys
import traceback
from typing import Annotated

import typer

from storyrl import __version__
from storyrl.cli import learning, models, studio, writing  # each registers its commands
from storyrl.cli.options import Device_, Threads_, app, examples
from storyrl.console import set_up
from storyrl.errors import InputError

__all__ = ["app", "learning", "main", "models", "studio", "writing"]


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit


@app.command(epilog=examples("storyrl doctor"))
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
