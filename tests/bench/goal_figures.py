"""Figures of the goal classifier on its held-out sets, beside length, word overlap and topic.

Every goal is one row. Sets of rows that must be right together are those of `Case.group` (a contrast set, a policy's
story, a pair of twins; MCTest: the story). Intervals resample these sets; the policy's stories by prompt, of which
there are two each.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rewards import goal_data
from rewards.base import StoryText
from rewards.encoder import shared_encoder
from rewards.goal import GoalReached
from rewards.goal_data import Case
from storyrl import console
from tests.bench import metrics

_QUICK_SETS = 30
_WINDOWS = (1, 2, 3)  # sentences
PREDICTORS = {"words": "number of words", "overlap": "word overlap", "similarity": "MiniLM similarity"}
POLICY = "policy's stories"
OWN = {"tuned": "tuned policy's stories", "chosen": "stories chosen by reward"}
CONTRASTS = {"contrast_first": "contrast, first writers", "contrast_later": "contrast, later writers"}
EDITED = "edited stories"
CUT = "cut stories"


@dataclass(frozen=True)
class Answers:
    """N goals, what the classifier and the plain predictors say of each, and what they belong to; all arrays [N]."""

    label: np.ndarray
    probability: np.ndarray  # calibrated
    words: np.ndarray  # of the story
    overlap: np.ndarray  # share of the goal's words that the story has
    similarity: np.ndarray  # cosine
    sets: np.ndarray
    clusters: np.ndarray
    kinds: np.ndarray
    story: np.ndarray  # number of the story

    def where(self, keep: np.ndarray) -> "Answers":
        """Some of the rows."""
        return Answers(**{name: column[keep] for name, column in vars(self).items()})


def goal_figures(data: Path, quick: bool) -> dict[str, Any]:
    """Figures of every held-out set, by its name.

    Args:
        data: the data folder.
        quick: only the first 30 sets of each.
    """
    scorer = GoalReached()
    contrast = goal_data.contrast(True)
    calibration = {case.group for case in goal_data.calibration_cases()}
    cases = {
        POLICY: [case for case in goal_data.policy_stories(True) if case.group not in calibration],
        f"{POLICY}, all": goal_data.policy_stories(True),
        **{name: [c for c in goal_data.chosen_stories(True) if c.source == source] for source, name in OWN.items()},
        EDITED: goal_data.edited_stories(True),
        **{name: [c for c in contrast if c.source == source] for source, name in CONTRASTS.items()},
        "twins": goal_data.twins(True),
        "MCTest, development": goal_data.story_entailment(data, held_out=True),
        CUT: goal_data.cut_stories(True),
    }
    figures: dict[str, Any] = {}
    for name, some in cases.items():
        console.say(f"goal: {name} ...")
        some = first_sets(some, _QUICK_SETS) if quick else some
        answers = read(some, scorer)
        calibrated_on = any(case.group in calibration for case in some)
        figures[name] = set_figures(answers, calibrated_on)
        if name in (POLICY, EDITED, *OWN.values()):
            for kind, title in (("written", "goals by readers"), ("prompt", "the prompts' goals")):
                figures[f"{name}: {title}"] = set_figures(answers.where(answers.kinds == kind), calibrated_on)
        if name in CONTRASTS.values():
            figures[name]["by_kind"] = by_kind(answers)
        if name == CUT:
            rho = metrics.spearman_estimate(answers.probability, answers.words)
            figures[name]["score_with_words"] = rho
    return figures


def first_sets(cases: Sequence[Case], count: int) -> list[Case]:
    """The cases of the first `count` sets."""
    kept = list(dict.fromkeys(_set(case) for case in cases))[:count]
    return [case for case in cases if _set(case) in kept]


def _set(case: Case) -> str:
    return case.group or case.story


def _cluster(case: Case) -> str:
    """The prompt, where there is one: ht007 and hw007 are of one."""
    return case.group[2:] if case.source in ("policy", "edited", *OWN) else _set(case)


def read(cases: Sequence[Case], scorer: GoalReached) -> Answers:
    """All predictors' answers for all goals of the cases."""
    rows = [(at, case, number) for at, case in enumerate(cases) for number in range(len(case.goals))]
    goals = [case.goals[number] for _, case, number in rows]
    probability = np.array(
        scorer.score([StoryText(case.story, goal) for (_, case, _), goal in zip(rows, goals, strict=True)])
    )
    number_of = {story: number for number, story in enumerate(dict.fromkeys(case.story for case in cases))}
    return Answers(
        label=np.array([case.reached[number] for _, case, number in rows]),
        probability=probability,
        words=np.array([len(case.story.split()) for _, case, _ in rows], dtype=float),
        overlap=np.array([_overlap(case.story, goal) for (_, case, _), goal in zip(rows, goals, strict=True)]),
        similarity=_similarity(cases, rows),
        sets=np.array([_set(case) for _, case, _ in rows]),
        clusters=np.array([_cluster(case) for _, case, _ in rows]),
        kinds=np.array([case.kinds[number] if case.kinds else "" for _, case, number in rows]),
        story=np.array([number_of[case.story] for _, case, _ in rows]),
    )


_Row = tuple[int, Case, int]  # number of the case, the case, number of its goal


def _overlap(story: str, goal: str) -> float:
    """Share of the goal's different words that the story has."""
    asked, told = (set(re.findall(r"\w+", text.lower())) for text in (goal, story))
    return len(asked & told) / max(1, len(asked))


def _similarity(cases: Sequence[Case], rows: Sequence[_Row]) -> np.ndarray:
    """Largest cosine of the goal with the mean vector of one to three neighbouring sentences: the goal score before."""
    encoder = shared_encoder()
    stories = encoder.encode_stories([case.story for case in cases])
    goals = encoder.encode([case.goals[number] for _, case, number in rows])
    return np.array([_nearest(stories[at], goal) for (at, _, _), goal in zip(rows, goals, strict=True)])


def _nearest(sentences: torch.Tensor, goal: torch.Tensor) -> float:
    best = [
        float(torch.cosine_similarity(sentences.unfold(0, width, 1).mean(dim=2), goal[None], dim=1).max())
        for width in _WINDOWS
        if len(sentences) >= width
    ]
    return max(best, default=0.0)


def set_figures(answers: Answers, calibrated_on: bool) -> dict[str, Any]:
    """Sizes, the classifier's measures and the plain predictors' AUC."""
    predicted = answers.probability > 0.5
    right = predicted == answers.label
    measures = {
        "auc": metrics.auc(answers.probability, answers.label),
        "accuracy": metrics.mean(right.astype(float)),
        "macro_f1": metrics.macro_f1(predicted, answers.label),
        "sets_right": metrics.all_right(right, answers.sets),
        "ece": metrics.calibration_error(answers.probability, answers.label),
        **{f"auc_{name}": metrics.auc(getattr(answers, name), answers.label) for name in PREDICTORS},
    }
    return {
        "goals": len(answers.label),
        "stories": len(np.unique(answers.story)),
        "sets": len(np.unique(answers.sets)),
        "reached": float(answers.label.mean()),
        "calibrated_on": calibrated_on,
        **{name: metrics.estimate(measure, answers.clusters) for name, measure in measures.items()},
        "reliability": metrics.reliability(answers.probability, answers.label),
    }


def by_kind(answers: Answers) -> dict[str, Any]:
    """Accuracy at 0.5 by phenomenon, the least first."""
    figures: dict[str, Any] = {}
    for kind in np.unique(answers.kinds):
        some = answers.where(answers.kinds == kind)
        right = ((some.probability > 0.5) == some.label).astype(float)
        figures[str(kind)] = {"n": len(right), "accuracy": metrics.estimate(metrics.mean(right), some.clusters)}
        figures[str(kind)]["reached"] = float(some.label.mean())
    return dict(sorted(figures.items(), key=lambda item: item[1]["accuracy"]["value"]))
