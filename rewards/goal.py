"""Goal score, first version: how near the story's nearest passage comes to the goal's sentence in meaning.

A stand-in: it sees the topic of the goal, not whether the event has happened ("Mira wanted to forgive him" scores
high). A goal-reaching classifier is to replace it.
"""

from collections.abc import Sequence

import torch

from rewards.base import Scorer, StoryText
from rewards.encoder import SentenceEncoder, shared_encoder

_WINDOWS = (1, 2, 3)  # sentences


class GoalSimilarity(Scorer):
    """Cosine similarity of goal and best-matching passage of one to three sentences; unit: cosine, -1 to 1.

    A story without words scores 0, and so does one without a goal.
    """

    name = "goal"

    def __init__(self, encoder: SentenceEncoder | None = None):
        self.encoder = encoder or shared_encoder()

    def score(self, stories: Sequence[StoryText]) -> list[float]:
        """Similarity of each story."""
        goals = self.encoder.encode([story.goal for story in stories])
        passages = self.encoder.encode_stories([story.text for story in stories])
        return [
            best_match(vectors, goal) if story.goal else 0.0
            for story, vectors, goal in zip(stories, passages, goals, strict=True)
        ]


def best_match(sentences: torch.Tensor, goal: torch.Tensor) -> float:
    """Largest cosine of `goal` [D] with the mean of up to three neighbouring rows of `sentences` [S, D]."""
    best = [
        torch.nn.functional.cosine_similarity(sentences.unfold(0, width, 1).mean(dim=2), goal[None], dim=1).max()
        for width in _WINDOWS
        if len(sentences) >= width
    ]
    return max((float(value) for value in best), default=0.0)
