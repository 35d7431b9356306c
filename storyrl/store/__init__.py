"""The store: stories with their branches, the candidates that were shown, ratings and comparisons, in a database.

SQLite (write-ahead log, one file in the user's data folder) unless a URL says otherwise; PostgreSQL works by its URL.
The schema is made and changed by the migrations beside this package, which run when a store opens. What it leaves out:
who may sign in; a name is all that it knows of an owner.
"""

import sqlalchemy as sa

from storyrl.store.blind import Blind
from storyrl.store.library import Library
from storyrl.store.ratings import Ratings, preferences
from storyrl.store.records import (
    OWNER,
    SIDES,
    WEAK_PREFERENCES,
    Answer,
    BlindPair,
    BlindTest,
    Comparison,
    Judgement,
    OpenPair,
    PoolStory,
    Rating,
    Round,
    ShownCandidate,
    ShownTurn,
    Stale,
    StoryInfo,
    Weak,
    WeakPreference,
)
from storyrl.store.suggestions import Suggestions
from storyrl.store.tables import Base, CandidateRow, ComparisonRow, RatingRow, RoundRow, StoryRow
from storyrl.store.tree import Fork, Node, Tree
from storyrl.store.writing import Writing

__all__ = [
    "OWNER",
    "SIDES",
    "WEAK_PREFERENCES",
    "Answer",
    "Base",
    "BlindPair",
    "BlindTest",
    "Comparison",
    "Fork",
    "Judgement",
    "Node",
    "OpenPair",
    "PoolStory",
    "Rating",
    "Ratings",
    "Round",
    "ShownCandidate",
    "ShownTurn",
    "Stale",
    "Store",
    "StoryInfo",
    "Tree",
    "Weak",
    "WeakPreference",
    "preferences",
]


class Store(Library, Writing, Suggestions, Ratings, Blind):
    """An open database. Every method is one transaction.

    It sees everybody's rows, as the command line does; `for_owner(name)` is the same store as one user sees it.

    Raises:
        InputError: (from any method) the database cannot be opened, read or written, or refuses a value.
    """

    def counts(self) -> dict[str, int]:
        """How many stories are not deleted, with their turns (on the current paths) and candidates; and the answers."""
        stories = self._mine(StoryRow.owner), StoryRow.deleted.is_(None)
        turns = sa.select(sa.func.coalesce(sa.func.sum(StoryRow.turn_count), 0)).where(*stories)
        shown = sa.select(sa.func.count()).select_from(CandidateRow).join(RoundRow).join(StoryRow).where(*stories)
        queries = {
            "stories": sa.select(sa.func.count()).select_from(StoryRow).where(*stories),
            "turns": turns,
            "candidates": shown,
            "ratings": sa.select(sa.func.count()).select_from(RatingRow).where(self._mine(RatingRow.rater)),
            "comparisons": sa.select(sa.func.count()).select_from(ComparisonRow).where(self._mine(ComparisonRow.rater)),
        }
        with self._reading() as session:
            return {name: session.scalar(query) or 0 for name, query in queries.items()}
