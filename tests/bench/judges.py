"""Every figure about the reward models, as a page with plots: `python -m tests.bench.judges DATA_FOLDER`.

Writes report.html and report.json into the folder of --out and prints the main table. About half an hour on two cores,
with --quick (a part of each set, no likelihoods) about six minutes. `--only goal --only speed` makes these sections
anew and takes the others from the last report. The sections are in the files beside this one.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from storyrl import console
from storyrl.files import read_text, write_json
from tests.bench.attack_figures import attack_figures, speed_figures
from tests.bench.goal_figures import goal_figures
from tests.bench.preference_figures import preference_figures
from tests.bench.rewards_page import main_table, write_page
from tests.bench.taste import taste_curves

_SECTIONS: dict[str, Callable[[Path, bool], dict[str, Any]]] = {
    "goal": goal_figures,
    "preference": preference_figures,
    "taste": lambda data, quick: taste_curves(quick, data),
    "attacks": lambda _, quick: attack_figures("gaming.jsonl", quick),
    "fresh_attacks": lambda _, quick: attack_figures("gaming_fresh.jsonl", quick),
    "speed": lambda _, quick: speed_figures(quick),
}


def main() -> None:
    """Make all figures, write them, print the main ones."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path, help="folder with the public sets that rewards/weights/README.md names")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-rewards"))
    parser.add_argument("--quick", action="store_true", help="a part of each set: whether it runs, not what it says")
    parser.add_argument(
        "--only",
        action="append",
        choices=_SECTIONS,
        help="make this section anew, keep the others of --out's report.json",
    )
    options = parser.parse_args()
    figures: dict[str, Any] = {"quick": options.quick, "seconds": {}}
    if options.only:
        figures = json.loads(read_text(options.out / "report.json"))
        if figures["quick"] != options.quick:
            parser.error("--only: the last report was made with the other setting of --quick")
    for name in options.only or _SECTIONS:
        start = time.perf_counter()
        figures[name] = _SECTIONS[name](options.data, options.quick)
        figures["seconds"][name] = round(time.perf_counter() - start, 1)
    write_json(options.out / "report.json", figures)
    write_page(options.out / "report.html", figures)
    print(main_table(figures))
    console.say(f"{options.out / 'report.html'}: written")


if __name__ == "__main__":
    console.set_up(quiet=False, threads=None)
    main()
