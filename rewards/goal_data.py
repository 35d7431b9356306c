"""Training and development data of the goal classifier: stories, each with goals and whether they have happened.

Two kinds. What was written and labelled for storyrl lies in rewards/data. Public entailment sets are read from a data
folder given by path (`FOLDER/nli/...`); a premise becomes a story and its hypotheses goals, those that are entailed
having happened. Nothing that an evaluation uses is in training: contrast sets and twins are split by set, the policy's
stories by prompt, public sets by their own splits.
"""

import random
import zlib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from storyrl.files import read_jsonl
from storyrl.story import Turn, prose

_MUDDLED = "GJM"  # writers of twins in the manner of a small model


@dataclass(frozen=True)
class Case:
    """A story and goals; `reached` says of each goal whether it has happened by the story's end."""

    story: str
    goals: tuple[str, ...]
    reached: tuple[bool, ...]
    source: str
    group: str = ""  # cases of one contrast set share it
    kinds: tuple[str, ...] = ()


def own_file(name: str) -> Path:
    """A file of rewards/data."""
    return Path(str(resources.files("rewards").joinpath("data", name)))


def is_held_out(group: str, share: int) -> bool:
    """A fixed choice of one group in `share`, by checksum."""
    return zlib.crc32(group.encode()) % share == 0


def contrast(held_out: bool) -> list[Case]:
    """Contrast sets of one goal. Held out: one in four of the first sets (p, q) and one in eight of the others."""
    cases = []
    for _, row in read_jsonl(own_file("goal_contrast.jsonl")):
        first = row["set"][0] in "pq"
        if is_held_out(row["set"], 4 if first else 8) == held_out:
            source = "contrast_first" if first else "contrast_later"
            cases.append(
                Case(row["story"], (row["goal"],), (row["reached"],), source, row["set"], (row["phenomenon"],))
            )
    return cases


def policy_stories(held_out: bool) -> list[Case]:
    """Stories of the default policy with labelled goals.

    Held out: the stories of held-out prompts, with the labels on which both readings agree.
    """
    return _labelled("goal_policy.jsonl", "policy", held_out)


def chosen_stories(held_out: bool) -> list[Case]:
    """The same, of stories that the classifier had a hand in: if it is mistaken in a story's favour, it is so in these.

    Source `chosen`: at each turn the best of six candidates by the reward; `tuned`: by a policy tuned on the reward.
    """
    cases = _labelled("goal_chosen.jsonl", "chosen", held_out)
    return [replace(case, source="tuned") if case.group[1] == "u" else case for case in cases]


def _labelled(name: str, source: str, held_out: bool) -> list[Case]:
    cases = []
    for _, row in read_jsonl(own_file(name)):
        if (row["split"] == "heldout") == held_out:
            goals = [g for g in row["goals"] if not held_out or g["second"] == g["reached"]]
            cases.append(
                Case(
                    row["story"],
                    tuple(g["goal"] for g in goals),
                    tuple(g["reached"] for g in goals),
                    source,
                    row["id"],
                    tuple(g["kind"] for g in goals),
                )
            )
    return cases


def edited_stories(held_out: bool) -> list[Case]:
    """Stories of the policy in which one paragraph was rewritten by hand: four edits of each, source `edited`.

    In two the prompt's goal happens; in the others something else does, which is a goal too. For training only the
    edited paragraph and its neighbours: four copies of the rest would teach nothing. Held out: the labels on which
    both readings agree.
    """
    cases = []
    for _, row in read_jsonl(own_file("goal_edits.jsonl")):
        if (row["split"] == "heldout") == held_out:
            goals = (row["goal"], *(edit["instead"] for edit in row["edits"] if "instead" in edit))
            for edit in row["edits"]:
                paragraphs = row["story"].split("\n\n")
                paragraphs[edit["at"]] = edit["text"]
                if not held_out:
                    paragraphs = paragraphs[max(0, edit["at"] - 1) : edit["at"] + 2]
                reached = [goal == edit.get("instead", row["goal"]) for goal in goals]
                kept = [at for at in range(len(goals)) if not held_out or edit["second"][at] == reached[at]]
                cases.append(
                    Case(
                        "\n\n".join(paragraphs),
                        tuple(goals[at] for at in kept),
                        tuple(reached[at] for at in kept),
                        "edited",
                        row["id"],
                        tuple("written" if at else "prompt" for at in kept),
                    )
                )
    return cases


def twins(held_out: bool) -> list[Case]:
    """Twin stories: two versions of one text, with goals most of which have happened in one of them."""
    cases = []
    for _, row in read_jsonl(own_file("goal_twins.jsonl")):
        if is_held_out(row["id"], 20) == held_out:
            for side in ("a", "b"):
                cases.append(
                    Case(
                        row[side],
                        tuple(g["goal"] for g in row["goals"]),
                        tuple(g[side] for g in row["goals"]),
                        "twins",
                        row["id"],
                        tuple(g["kind"] for g in row["goals"]),
                    )
                )
    return cases


_NLI_TRAIN = {
    "snli": ("snli_dev_test/test.jsonl", "snli_dev_test/dev.jsonl"),
    "mnli": ("mnli_dev_binary/test.jsonl", "mnli_dev_binary/dev.jsonl"),
    "cad": ("cad_nli/train.jsonl", "cad_nli/test.jsonl"),
    "negation": ("negation_nli/SNLI.jsonl", "negation_nli/MNLI.jsonl"),
    "scone": ("scone/train.jsonl",),
    "breaking": ("breaking_nli/data.jsonl",),
}


def _entailment(path: Path, source: str, form: str | None = None) -> list[Case]:
    """Rows of an entailment file, those with one premise together."""
    by_premise: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for _, row in read_jsonl(path):
        if form is None or row.get("form") == form:
            by_premise[row["premise"]].append(row)
    cases = []
    for premise, rows in by_premise.items():
        for at in range(0, len(rows), 8):
            part = rows[at : at + 8]
            cases.append(
                Case(
                    premise,
                    tuple(row["hypothesis"] for row in part),
                    tuple(row["label"] == "entailment" for row in part),
                    source,
                )
            )
    return cases


def general_entailment(data: Path) -> list[Case]:
    """The general stage: short premises, and the labels that one word decides."""
    nli = data / "nli"
    cases = [case for name, files in _NLI_TRAIN.items() for file in files for case in _entailment(nli / file, name)]
    # One-word substitutions are seven eighths contradictions there: keep those premises that also entail something.
    return [case for case in cases if case.source != "breaking" or any(case.reached)]


def story_entailment(data: Path, held_out: bool = False) -> list[Case]:
    """Children's stories with true and false statements (MCTest); held out: its own development splits."""
    splits = ("dev",) if held_out else ("train", "test")
    paths = [data / "nli" / "mctest" / f"{part}.{split}.jsonl" for part in ("mc160", "mc500") for split in splits]
    return [case for path in paths for case in _entailment(path, "mctest", "statement")]


def cut_stories(held_out: bool) -> list[Case]:
    """Written stories cut just before the turn that reaches their goal, and stretches that end with it or after it.

    Both cases of a story are of like length: the second begins later. One story in eight is held out. Stories whose
    goal is reached in the first third are left out.
    """
    cases = []
    for name in ("authored.jsonl", "plain.jsonl"):
        for _, row in read_jsonl(Path(str(resources.files("prompts").joinpath("stories", name)))):
            reached = row["reached_turn"] - 1  # from 0
            if is_held_out(row["id"], 8) != held_out or reached < max(2, len(row["turns"]) / 3):
                continue
            turns = [Turn.model_validate(turn) for turn in row["turns"]]
            before = prose(turns[:reached])
            end = random.Random(row["id"]).choice((reached + 1, len(turns)))
            start = 0
            while start < reached and len(prose(turns[start:end]).split()) > len(before.split()) + 15:
                start += 1
            for text, happened in ((before, False), (prose(turns[start:end]), True)):
                cases.append(
                    Case(text, (row["goal"],), (happened,), "cut", row["id"], ("cut" if not happened else "whole",))
                )
    return cases


def training_stories() -> list[Case]:
    """What the story stage trains on: the policy's stories, chosen, edited or neither, and twins in their manner."""
    stories = [*policy_stories(held_out=False), *chosen_stories(held_out=False), *edited_stories(held_out=False)]
    return [*stories, *(case for case in twins(held_out=False) if case.group[0] in _MUDDLED)]


def calibration_cases() -> list[Case]:
    """Held-out cases that calibration is fitted on: every second prompt's stories of the policy, and twins."""
    stories = [*policy_stories(held_out=True), *chosen_stories(held_out=True)]
    policy = [case for case in stories if is_held_out(case.group[2:], 2)]
    return [*policy, *(case for case in twins(held_out=True) if case.group[0] in _MUDDLED)]
