"""Measures mean and deviation of the learned scores on the default policy: `python -m rewards.standardise` (seconds).

On the 120 stories that it wrote for starter:heldout at temperature 1, with nothing chosen, as tuning sees them: those
of rewards/data/goal_policy.jsonl whose ids start with "ht". The goal classifier was not trained on them. Run it when a
scorer has been trained anew, and write new stories when the default policy has. Writes weights/standard.json.
"""

import math

from prompts.readers import read_prompts
from rewards.base import StoryText
from rewards.composite import standard_file
from rewards.goal import GoalReached
from rewards.goal_data import own_file
from rewards.preference import Preference
from rewards.shaping import VerbDistance
from storyrl.files import read_jsonl, write_json


def policy_samples() -> list[StoryText]:
    """The stories with their prompts: ht000 is of the first prompt of starter:heldout, and so on."""
    rows = [row for _, row in read_jsonl(own_file("goal_policy.jsonl")) if row["id"].startswith("ht")]
    return [
        StoryText(row["story"], prompt.goal, prompt.premise)
        for row, prompt in zip(rows, read_prompts("starter:heldout"), strict=True)
    ]


def main() -> None:
    """Score the stories, write the numbers."""
    stories, standard = policy_samples(), {}
    for scorer in (GoalReached(), Preference(), VerbDistance()):
        scores = scorer.score(stories)
        mean = sum(scores) / len(scores)
        deviation = math.sqrt(sum((score - mean) ** 2 for score in scores) / (len(scores) - 1))
        standard[scorer.name] = {"mean": mean, "deviation": deviation, "stories": len(scores)}
    write_json(standard_file(), standard)


if __name__ == "__main__":
    main()
