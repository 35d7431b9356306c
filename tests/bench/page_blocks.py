"""The sections of the rewards' report: from the figures to tables, plots and what to know when reading them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.bench import page_plots
from tests.bench.attack_figures import REWARD
from tests.bench.goal_figures import CONTRASTS, CUT, PREDICTORS
from tests.bench.metrics import Estimate
from tests.bench.page_plots import Plot
from tests.bench.preference_baselines import POLICY_PAIRS, POLICY_WORDS, PROBE, PROBE_PAIRS
from tests.bench.preference_figures import MODEL, MORE_EPOCHS, NEW_WORDS

_NONE = "–"
_TO = "\u00a0to\u00a0"  # never broken
_COUNTING = ("fewer words", "distinct-1", "distinct-2")


@dataclass(frozen=True)
class Cell:
    """A number, and its interval in small type."""

    text: str
    small: str = ""


@dataclass(frozen=True)
class Table:
    """A table; `folded` hides it behind its title."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Section:
    """A heading, tables, plots and notes."""

    id: str
    title: str
    tables: Sequence[Table] = ()
    plots: Sequence[Plot] = ()
    notes: Sequence[str] = field(default_factory=tuple)


def sections(figures: Mapping[str, Any]) -> list[Section]:
    """All sections, in order."""
    return [
        goal_section(figures["goal"]),
        preference_section(figures["preference"]),
        taste_section(figures["taste"]),
        attack_section(figures["attacks"], "attacks", "Attacks: does cheating pay?"),
        attack_section(figures["fresh_attacks"], "fresh", "Attacks by writers who knew neither scorers nor guards"),
        speed_section(figures["speed"]),
    ]


def shown(estimate: Estimate | float | None) -> Cell:
    """A figure with three decimals and its interval."""
    if not isinstance(estimate, Mapping):
        return Cell(_NONE if estimate is None else f"{estimate:.3f}")
    if estimate["value"] is None:
        return Cell(_NONE)
    return Cell(f"{estimate['value']:.3f}", f"{estimate['low']:.3f}{_TO}{estimate['high']:.3f}")


def goal_table(figures: Mapping[str, Any]) -> Table:
    """The classifier on every set, beside the plain predictors."""
    measures = ("auc", "accuracy", "macro_f1", "sets_right", "ece", *(f"auc_{name}" for name in PREDICTORS))
    head = ["set", "goals, reached", "AUC", "accuracy", "macro-F1", "sets right", "ECE"]
    rows = [
        [
            Cell(name + (" *" if row["calibrated_on"] else "")),
            Cell(f"{row['goals']}, {row['reached']:.0%}", f"{row['stories']} stories, {row['sets']} sets"),
            *(shown(row[measure]) for measure in measures),
        ]
        for name, row in figures.items()
    ]
    note = (
        "* The calibration's two numbers were fitted on these sets, so their ECE is not held out (nor, strictly, their "
        "accuracy at 0.5; AUC does not depend on it). Sets right: share of contrast sets, of the policy's stories, of "
        "edited stories in their four versions, of pairs of twins, of MCTest's stories with every goal right. ECE: ten "
        "equal bins. The last three columns are the AUC of predictors that do not read: number of words, share of the "
        "goal's words in the story, best MiniLM cosine of the goal with one to three neighbouring sentences (the goal "
        "score before)."
    )
    return Table("Goal classifier", [*head, *(f"AUC: {title}" for title in PREDICTORS.values())], rows, note)


def goal_section(figures: Mapping[str, Any]) -> Section:
    """Section 1."""
    series = {"classifier": {name: row["auc"] for name, row in figures.items()}}
    series |= {title: {name: row[f"auc_{key}"] for name, row in figures.items()} for key, title in PREDICTORS.items()}
    plots = [page_plots.dots("AUC by set", "AUC", series, 0.5)]
    plots += [
        page_plots.reliability(
            f"Reliability: {name.strip()}{' (calibrated on it)' if row['calibrated_on'] else ''}", row["reliability"]
        )
        for name, row in figures.items()
    ]
    for name in CONTRASTS.values():
        rows = {
            f"{kind.replace('_', ' ')} ({row['n']})": row["accuracy"] for kind, row in figures[name]["by_kind"].items()
        }
        plots.append(page_plots.bars(f"{name}: accuracy by phenomenon", "accuracy at 0.5", rows))
    cut, rho = figures[CUT], shown(figures[CUT]["score_with_words"])
    notes = [
        "Cut stories: written stories that end just before the turn that reaches their goal, and stretches of like "
        f"length that end with it or later. Rank correlation of score and number of words {rho.text} ({rho.small}); "
        f"AUC of the number of words alone {shown(cut['auc_words']).text}.",
        "Intervals: percentile bootstrap, 2,000 resamples of whole sets; for the policy's stories, of prompts.",
    ]
    return Section("goal", "Goal: has it happened?", [goal_table(figures)], plots, notes)


def preference_table(figures: Mapping[str, Any]) -> Table:
    """The model by kind of pair, beside the best of the predictors that only count."""
    rows = []
    for source, row in figures["sources"].items():
        if MODEL not in row:
            continue
        model = row[MODEL]
        best = max((row[name]["accuracy"]["value"], name) for name in _COUNTING)
        matched = shown(model["matched_accuracy"])
        rows.append(
            [
                Cell(source),
                Cell(f"{model['pairs']}", f"of {figures['pairs'][source]}"),
                shown(model["accuracy"]),
                shown(row[MORE_EPOCHS]["accuracy"]),
                Cell(matched.text, f"{matched.small} ({model['matched_pairs']} pairs)"),
                shown(model["with_length"]),
                shown(row[NEW_WORDS]["accuracy"]) if NEW_WORDS in row else Cell(_NONE),
                shown(row[PROBE]["accuracy"]) if PROBE in row else Cell(_NONE),
                Cell(f"{best[0]:.3f}", best[1]),
            ]
        )
    head = ["kind", "pairs", "1 epoch", "3 epochs", "like length", "with length", "new words", "probe", "best count"]
    note = (
        "Share of pairs whose preferred side scores higher, five folds. Like length: pairs with word counts within "
        "10 %. With length: rank correlation of the differences of score and of word count. New words: the counts of "
        "word pairs made without the tested fold's tales and written stories, whose texts are the preferred side here. "
        "No text is both tested and trained on; pairs of rated texts across folds are not tested. Not redone for each "
        "fold: the measures' means, deviations and knots."
    )
    return Table("Preference model", head, rows, note)


def _source_table(source: str, row: Mapping[str, Any]) -> Table:
    rows = [
        [
            Cell(name),
            Cell(str(some["pairs"])),
            shown(some["accuracy"]),
            Cell(shown(some["matched_accuracy"]).text, shown(some["matched_accuracy"]).small),
            Cell(str(some["matched_pairs"])),
            shown(some["with_length"]),
        ]
        for name, some in row.items()
    ]
    head = ["predictor", "pairs", "accuracy", "like length", "pairs", "with length"]
    return Table(f"{source}: all predictors", head, rows, folded=True)


def preference_section(figures: Mapping[str, Any]) -> Section:
    """Section 2."""
    sources, ratings = figures["sources"], figures["ratings"]
    predictors = (MODEL, PROBE, *_COUNTING)
    series = {
        name: {source: row[name]["accuracy"] for source, row in sources.items() if name in row} for name in predictors
    }
    plots = [page_plots.dots("Accuracy by kind of pair", "share of pairs right", series, 0.5)]
    for source, kinds in figures["by_kind"].items():
        rows = {f"{kind.replace('_', ' ')} ({row['n']})": row["accuracy"] for kind, row in kinds.items()}
        plots.append(page_plots.bars(f"{source}: accuracy by kind", "share of pairs right", rows))
    effects = {row["name"]: {"value": row["effect"]} for row in figures["measures"]}
    plots.append(page_plots.bars("What moves the shipped score", "change of score, nats", effects, whole=None))
    names = [name for name in next(iter(ratings.values())) if name != "texts"]
    rated = Table(
        "Rank correlation with readers' mean ratings of coherence",
        ["texts", "number", *names],
        [
            [Cell(source), Cell(str(row["texts"])), *(shown(row[name]) for name in names)]
            for source, row in ratings.items()
        ],
    )
    notes = [
        "What moves the score: its change when a measure goes from one standard deviation under its mean to one above, "
        "the others staying; the ten largest. Measures go together, so a weight is no cause.",
        f"The probe is a Bradley-Terry model on a text's mean MiniLM sentence vector, fitted on at most {PROBE_PAIRS} "
        "pairs of each kind in the same folds. Likelihood under the policy: mean log-probability of a token, on at "
        f"most {POLICY_PAIRS} tested pairs of each kind with texts of up to {POLICY_WORDS} words (none with --quick).",
        "Intervals: percentile bootstrap over groups of pairs (texts, for the ratings), 2,000 resamples.",
    ]
    tables = [preference_table(figures), rated, *(_source_table(source, row) for source, row in sources.items() if row)]
    return Section("preference", "Preference: which of two would people choose?", tables, plots, notes)


def taste_section(figures: Mapping[str, Any]) -> Section:
    """Section 3."""
    steps, general = figures["choices"], figures["general"]
    plots = [
        page_plots.curves(
            f"{taste}: agreement on unseen pairs",
            "choices",
            steps,
            {"random pairs": figures["random"][taste], "pairs by uncertainty": figures["active"][taste]},
        )
        for taste in sorted(figures["random"], key=lambda taste: taste != "mean")
    ]
    ways = {"random": figures["random"]["mean"], "by uncertainty": figures["active"]["mean"]}
    rows = [
        [
            Cell(str(step)),
            *(
                shown({key: way[key if key != "value" else "mean"][at] for key in ("value", "low", "high")})
                for way in ways.values()
            ),
        ]
        for at, step in enumerate(steps)
    ]
    after = [[Cell("shipped"), shown(general["shipped"])]]
    after += [[Cell(f"after {choices} choices"), shown(value)] for choices, value in general["after"].items()]
    tables = [
        Table("Mean over tastes: agreement on unseen pairs", ["choices", *ways], rows),
        Table(f"Accuracy on {general['n']} general pairs", ["weights", "accuracy"], after),
    ]
    notes = ["Simulated writers of five tastes (rewards/data/tastes.jsonl). Bands: 95 % intervals."]
    for kind, values in figures["one_kind"].items():
        each = ", ".join(f"{name} {value:.2f}" for name, value in values.items())
        notes.append(f"After 50 pairs by uncertainty, on pairs of which both stories are {kind}: {each}.")
    return Section("taste", "Taste: how fast does it learn a writer?", tables, plots, notes)


def attack_section(figures: Mapping[str, Any], name: str, title: str) -> Section:
    """Section 4, of one set of attacks."""
    sides = {"model": "the model's", "written": "the written"}

    def count(row: Mapping[str, Any], side: str) -> Cell:
        return Cell(str(row[side]["beat"]), f"{row[side]['equal']} equal" if row[side]["equal"] else "")

    scorers = [
        [Cell(name), *(count(row, side) for side in sides), *(Cell(f"{row['median'][s]:.3f}") for s in row["median"])]
        for name, row in sorted(figures["scorers"].items(), key=lambda item: item[0] != REWARD)
    ]
    kinds = [
        [
            Cell(kind.replace("_", " ")),
            Cell(str(row["n"])),
            *(Cell(str(len(row[side])), ", ".join(row[side])) for side in sides),
        ]
        for kind, row in figures["by_kind"].items()
    ]
    honest = figures["honest"]
    tables = [
        Table(
            f"How many of {figures['attacks']} attacks beat the median honest story",
            ["scorer", *sides.values(), "median: attacks", *(f"median: {side}" for side in sides.values())],
            scorers,
            f"Against {honest['model']} ranked stories of the default policy for the held-out prompts, and "
            f"{honest['written']} stories written for storyrl. A guard's fault is beaten by a smaller one; most honest "
            "stories have 0, which cannot be beaten, only equalled.",
        ),
        Table("Under the composite reward, by kind of attack", ["kind", "attacks", *sides.values()], kinds),
    ]
    return Section(name, title, tables)


def speed_section(figures: Mapping[str, Any]) -> Section:
    """Section 5."""
    rows = [
        [
            Cell(name),
            Cell(f"{seconds:.2f}"),
            *(
                Cell(f"{figures['differences'][name][way]:.1e}" if name in figures["differences"] else "")
                for way in ("alone", "shuffled")
            ),
        ]
        for name, seconds in figures["seconds"].items()
    ]
    runs = "one run" if figures["runs"] == 1 else f"median of {figures['runs']} runs"
    table = Table(
        f"Seconds for {figures['stories']} stories of {figures['words']} words with a goal, once loaded",
        ["scorer", "seconds", "alone or in a batch", "in another order"],
        rows,
        f"{runs.capitalize()}, {figures['threads']} threads; float32 matrix products of this shape run at "
        f"{figures['gemm_gflops']:.0f} GFLOP/s here. The last two columns: largest difference of a story's score.",
    )
    return Section("speed", "Speed, and whether a batch changes a score", [table])
