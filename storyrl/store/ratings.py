"""Marks and blind comparisons in the store, and the preferences that they amount to."""

from typing import Any

import sqlalchemy as sa

from prompts.template import format_prompt
from storyrl.errors import InputError
from storyrl.store.database import Database
from storyrl.store.records import Answer, Comparison, Rating
from storyrl.store.tables import ComparisonRow, RatingRow
from storyrl.story import Prompt


class Ratings(Database):
    """Ratings and comparisons. Seen by one owner they are those whose rater is the owner, and new ones become so."""

    def add_rating(self, rating: Rating) -> int:
        """Store a rating; returns its id."""
        return self._add(RatingRow(value=rating.value, text=rating.text, aspect=rating.aspect), rating)

    def add_comparison(self, comparison: Comparison) -> int:
        """Store a comparison; returns its id."""
        c = comparison
        sides = {"text_a": c.text_a, "text_b": c.text_b, "policy_a": c.policy_a, "policy_b": c.policy_b}
        return self._add(ComparisonRow(answer=str(c.answer), **sides), c)

    def ratings(self) -> list[Rating]:
        """All ratings, the oldest first."""
        query = sa.select(RatingRow).where(self._mine(RatingRow.rater)).order_by(RatingRow.id)
        with self._reading() as session:
            return [
                Rating(Prompt.model_validate(r.prompt), r.text, r.value, r.aspect, r.rater, r.comment, r.id)
                for r in session.scalars(query)
            ]

    def comparisons(self) -> list[Comparison]:
        """All comparisons, the oldest first."""
        query = sa.select(ComparisonRow).where(self._mine(ComparisonRow.rater)).order_by(ComparisonRow.id)
        with self._reading() as session:
            return [
                Comparison(
                    Prompt.model_validate(c.prompt),
                    c.text_a,
                    c.text_b,
                    Answer(c.answer),
                    c.rater,
                    c.policy_a,
                    c.policy_b,
                    c.comment,
                    c.id,
                )
                for c in session.scalars(query)
            ]

    def delete_rating(self, rating_id: int) -> None:
        """Take a rating back.

        Raises:
            InputError: the owner has no such rating.
        """
        self._delete(RatingRow, rating_id)

    def delete_comparison(self, comparison_id: int) -> None:
        """Take a comparison back.

        Raises:
            InputError: the owner has no such comparison.
        """
        self._delete(ComparisonRow, comparison_id)

    def _add(self, row: RatingRow | ComparisonRow, judgement: Rating | Comparison) -> int:
        row.prompt = judgement.prompt.model_dump(mode="json")
        row.rater, row.comment = self.owner or judgement.rater, judgement.comment
        with self._writing() as session:
            session.add(row)
            session.flush()
            return row.id

    def _delete(self, table: type[RatingRow] | type[ComparisonRow], row_id: int) -> None:
        query = sa.delete(table).where(table.id == row_id, self._mine(table.rater)).returning(table.id)
        with self._writing() as session:
            if not session.execute(query).all():
                raise InputError(f"{table.__tablename__} {row_id}: you have no such answer (any more)")


def preferences(store: Ratings) -> list[dict[str, Any]]:
    """What the ratings amount to: {prompt, chosen, rejected, margin, source, premise, goal} a pair.

    A comparison answered A or B is a pair of margin 1; ties and both-bad give none. Two texts for one prompt with
    different marks by one rater on one aspect are a pair whose margin is the difference of the marks.
    """
    pairs = []
    for c in store.comparisons():
        if c.answer in (Answer.A, Answer.B):
            sides = (c.text_a, c.text_b) if c.answer is Answer.A else (c.text_b, c.text_a)
            pairs.append(_pair(c.prompt, *sides, margin=1.0, source="comparison"))
    ratings = store.ratings()
    for i, first in enumerate(ratings):
        for second in ratings[i + 1 :]:
            same = (first.prompt, first.rater, first.aspect) == (second.prompt, second.rater, second.aspect)
            if same and first.text != second.text and first.value != second.value:
                better, worse = (first, second) if first.value > second.value else (second, first)
                margin = float(better.value - worse.value)
                pairs.append(_pair(first.prompt, better.text, worse.text, margin=margin, source="rating"))
    return pairs


def _pair(prompt: Prompt, chosen: str, rejected: str, margin: float, source: str) -> dict[str, Any]:
    return {
        "prompt": format_prompt(prompt),
        "chosen": chosen,
        "rejected": rejected,
        "margin": margin,
        "source": source,
        "premise": prompt.premise,
        "goal": prompt.goal,
    }
