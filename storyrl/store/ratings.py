"""Marks and blind comparisons in the store, the pair that a rater is asked about, and the preferences that result."""

import secrets
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from prompts.template import format_prompt
from storyrl.errors import InputError
from storyrl.store.database import Database
from storyrl.store.records import SIDES, Answer, Comparison, Judgement, OpenPair, PoolStory, Rating, Stale
from storyrl.store.tables import ComparisonRow, OpenPairRow, PoolRow, RatingRow
from storyrl.story import Prompt

_GONE = "this pair was answered or put away already, perhaps in another window; your answer was not stored"


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
            return [_rating(row) for row in session.scalars(query)]

    def comparisons(self) -> list[Comparison]:
        """All comparisons, the oldest first."""
        query = sa.select(ComparisonRow).where(self._mine(ComparisonRow.rater)).order_by(ComparisonRow.id)
        with self._reading() as session:
            return [_comparison(row) for row in session.scalars(query)]

    def latest_answers(self, skip: int, count: int) -> list[tuple[Comparison, Judgement]]:
        """`count` comparisons, the newest first and after `skip` of them, each with all that was said of the pair."""
        query = sa.select(ComparisonRow).where(self._mine(ComparisonRow.rater)).order_by(ComparisonRow.id.desc())
        with self._reading() as session:
            rows = session.scalars(query.offset(skip).limit(count)).all()
            return [(_comparison(row), _judgement(session, row)) for row in rows]

    def delete_rating(self, rating_id: int) -> None:
        """Take a rating back.

        Raises:
            InputError: the owner has no such rating.
        """
        self._delete(RatingRow, rating_id)

    def delete_comparison(self, comparison_id: int) -> None:
        """Take a comparison back, with the marks that were given with it.

        Raises:
            InputError: the owner has no such comparison.
        """
        self._delete(ComparisonRow, comparison_id)

    # --- pairs --------------------------------------------------------------------------------------------------------

    def add_to_pool(self, stories: Sequence[PoolStory]) -> list[PoolStory]:
        """Keep stories for the owner to compare; a text that is there for its prompt already is left out."""
        with self._writing() as session:
            known = {(each.prompt, each.text) for each in self._pool(session)}
            new = [s for s in dict.fromkeys(stories) if (s.prompt, s.text) not in known]
            rows = [
                PoolRow(owner=self._me, prompt=s.prompt.model_dump(mode="json"), text=s.text, policy=s.policy)
                for s in new
            ]
            session.add_all(rows)
            session.flush()
            return [_pool_story(row) for row in rows]

    def pool(self) -> list[PoolStory]:
        """All stories that were written for the owner to compare, the oldest first."""
        with self._reading() as session:
            return self._pool(session)

    def open_pair(self) -> OpenPair | None:
        """The pair that the owner is asked about, if there is one."""
        with self._reading() as session:
            row = session.get(OpenPairRow, self._me)
            return _open_pair(session, row) if row else None

    def ask(self, story_a: int, story_b: int, repeat_of: int | None = None) -> OpenPair:
        """Open a pair of stories of the owner's pool, in place of the pair that was open.

        Raises:
            InputError: no two such stories of the owner for one prompt, or no answer `repeat_of`.
        """
        with self._writing() as session:
            rows = [session.get(PoolRow, number) for number in (story_a, story_b)]
            prompts = [row.prompt for row in rows if row and row.owner == self._me]
            if len(prompts) < len(SIDES) or prompts[0] != prompts[1] or story_a == story_b:
                raise InputError(f"stories {story_a} and {story_b}: expected two of your pool for the same prompt")
            return self._open(session, story_a, story_b, repeat_of, Judgement())

    def put_away(self) -> None:
        """Close the owner's open pair without an answer; it can be asked again."""
        with self._writing() as session:
            session.execute(sa.delete(OpenPairRow).where(OpenPairRow.owner == self._me))

    def draft(self, key: str, judgement: Judgement) -> None:
        """Keep what was said so far of the open pair; of a pair that is not open any more, nothing is kept."""
        with self._writing() as session:
            row = session.get(OpenPairRow, self._me)
            if row and row.key == key:
                row.draft = _to_json(judgement)

    def answer(self, key: str, judgement: Judgement) -> int:
        """Store what the owner says of the open pair, with the marks as ratings, and close it; the comparison's id.

        Raises:
            Stale: the pair of this key is not open (any more).
            InputError: there is no answer, or a mark is not 1 to 5.
        """
        if judgement.answer is None:
            raise InputError("please say which story is better")
        with self._writing() as session:
            row = session.get(OpenPairRow, self._me)
            if row is None or row.key != key:
                raise Stale(_GONE)
            a, b = (session.get_one(PoolRow, number) for number in (row.story_a_id, row.story_b_id))
            sides = {"text_a": a.text, "text_b": b.text, "policy_a": a.policy, "policy_b": b.policy}
            places = {"story_a_id": a.id, "story_b_id": b.id, "repeat_of": row.repeat_of}
            by = {"prompt": a.prompt, "rater": self._me, "comment": judgement.comment}
            comparison = ComparisonRow(answer=str(judgement.answer), **by, **sides, **places)
            session.add(comparison)
            session.flush()
            for side, story in zip(SIDES, (a, b), strict=True):
                for aspect, value in judgement.marks.get(side, {}).items():
                    mark = RatingRow(text=story.text, aspect=aspect, value=value, comparison_id=comparison.id)
                    mark.prompt, mark.rater, mark.comment = story.prompt, self._me, ""
                    session.add(mark)
            session.delete(row)
            return comparison.id

    def undo_answer(self) -> OpenPair:
        """Take back the owner's last answer to a pair of the pool: the pair is open again, with what was said of it.

        Raises:
            InputError: there is no such answer.
        """
        of_pool = ComparisonRow.story_a_id.is_not(None), ComparisonRow.story_b_id.is_not(None)
        query = sa.select(ComparisonRow).where(ComparisonRow.rater == self._me, *of_pool)
        with self._writing() as session:
            row = session.scalar(query.order_by(ComparisonRow.id.desc()).limit(1))
            if row is None or row.story_a_id is None or row.story_b_id is None:
                raise InputError("there is no answer to take back")
            judgement = _judgement(session, row)
            session.execute(sa.delete(ComparisonRow).where(ComparisonRow.id == row.id))
            return self._open(session, row.story_a_id, row.story_b_id, row.repeat_of, judgement)

    def self_agreement(self) -> tuple[int, int] | None:
        """Of the pairs that a rater was asked twice, how many got the same answer both times: (agreed, asked).

        Better, about the same, and both bad are three different answers. None: nothing was asked twice.
        """
        comparisons = self.comparisons()
        by_id = {comparison.id: comparison for comparison in comparisons}
        twice = [(c, by_id[c.repeat_of]) for c in comparisons if c.repeat_of in by_id]
        return (sum(_said(again) == _said(first) for again, first in twice), len(twice)) if twice else None

    def _pool(self, session: Session) -> list[PoolStory]:
        query = sa.select(PoolRow).where(self._mine(PoolRow.owner)).order_by(PoolRow.id)
        return [_pool_story(row) for row in session.scalars(query)]

    def _open(self, session: Session, a: int, b: int, repeat_of: int | None, draft: Judgement) -> OpenPair:
        row = OpenPairRow(owner=self._me, key=secrets.token_hex(8), story_a_id=a, story_b_id=b, repeat_of=repeat_of)
        row.draft = _to_json(draft)
        return _open_pair(session, session.merge(row))

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


def _rating(r: RatingRow) -> Rating:
    prompt = Prompt.model_validate(r.prompt)
    return Rating(prompt, r.text, r.value, r.aspect, r.rater, r.comment, r.id, r.comparison_id)


def _comparison(c: ComparisonRow) -> Comparison:
    return Comparison(
        prompt=Prompt.model_validate(c.prompt),
        text_a=c.text_a,
        text_b=c.text_b,
        answer=Answer(c.answer),
        rater=c.rater,
        policy_a=c.policy_a,
        policy_b=c.policy_b,
        comment=c.comment,
        id=c.id,
        story_a=c.story_a_id,
        story_b=c.story_b_id,
        repeat_of=c.repeat_of,
        created=c.created,
    )


def _said(c: Comparison) -> str:
    """The answer in terms of the texts, whichever side they were on."""
    return {Answer.A: f"better: {c.text_a}", Answer.B: f"better: {c.text_b}"}.get(c.answer, str(c.answer))


def _judgement(session: Session, c: ComparisonRow) -> Judgement:
    marks: dict[str, dict[str, int]] = defaultdict(dict)
    for row in session.scalars(sa.select(RatingRow).where(RatingRow.comparison_id == c.id).order_by(RatingRow.id)):
        marks["A" if row.text == c.text_a else "B"][row.aspect] = row.value
    return Judgement(Answer(c.answer), dict(marks), c.comment)


def _pool_story(row: PoolRow) -> PoolStory:
    return PoolStory(Prompt.model_validate(row.prompt), row.text, row.policy, row.id)


def _open_pair(session: Session, row: OpenPairRow) -> OpenPair:
    a, b = (session.get_one(PoolRow, number) for number in (row.story_a_id, row.story_b_id))
    draft: Mapping[str, Any] = row.draft
    said = Judgement(Answer(draft["answer"]) if draft["answer"] else None, draft["marks"], draft["comment"])
    return OpenPair(row.key, Prompt.model_validate(a.prompt), a.text, b.text, said)


def _to_json(judgement: Judgement) -> dict[str, Any]:
    marks = {side: dict(of_side) for side, of_side in judgement.marks.items()}
    return {"answer": judgement.answer, "marks": marks, "comment": judgement.comment}


def preferences(store: Ratings) -> list[dict[str, Any]]:
    """What the ratings amount to: {prompt, chosen, rejected, margin, source, premise, goal} a pair.

    A comparison answered A or B is a pair of margin 1; ties, both-bad and repeats give none. Two texts for one prompt
    with different marks by one rater on one aspect are a pair whose margin is the difference of the marks.
    """
    pairs = []
    for c in store.comparisons():
        if c.answer in (Answer.A, Answer.B) and c.repeat_of is None:
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
