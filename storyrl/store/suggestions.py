"""What the model suggested: rounds of candidates, each shown after a block of a story. They are kept until the writer
deletes them; picks among them are weak preferences, which count only where their owner agreed to it.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from storyrl.errors import InputError
from storyrl.store.changes import read_tree
from storyrl.store.database import Database, alive
from storyrl.store.records import WEAK_PREFERENCES, Round, ShownCandidate, ShownTurn
from storyrl.store.tables import CandidateRow, RoundRow, SettingRow, StoryRow, turn_of
from storyrl.store.tree import Tree
from storyrl.store.writing import Place, place_of


class Suggestions(Database):
    """Rounds of candidates.

    Raises:
        InputError: (from every method that takes a story's id) the owner has no such story, or it was deleted.
    """

    def show(self, story_id: str, shown: Sequence[ShownCandidate], after: Place = "tip") -> Round:
        """Record candidates that are shown together for the turn after a block. The story's version stays.

        Raises:
            InputError: the story has no such block.
        """
        with self._writing() as session:
            story = alive(self._find(session, story_id), story_id)
            return _add_round(session, story_id, place_of(read_tree(session, story), after), shown)

    def set_candidates(self, story_id: str, position: int, shown: Sequence[ShownCandidate]) -> None:
        """Record which candidates were shown for the turn at `position` of the current path, and which was picked.

        Candidates with a text that was shown there already are updated, the others are a new round.

        Raises:
            InputError: the current path is shorter than that.
        """
        with self._writing() as session:
            tree = read_tree(session, alive(self._find(session, story_id, lock=True), story_id))
            if not 0 <= position <= len(tree.path):
                raise InputError(f"position {position}: the story has {len(tree.path)} turns")
            after = tree.path[position - 1].id if position else None
            there = (
                sa.select(CandidateRow)
                .join(RoundRow, RoundRow.id == CandidateRow.round_id)
                .where(RoundRow.story_id == story_id, RoundRow.after_id == after)
            )
            known = {row.text: row for row in session.scalars(there)}
            for candidate in shown:
                if row := known.get(candidate.turn.text):
                    row.scores, row.reward, row.picked = candidate.scores, candidate.reward, candidate.picked
            if new := [candidate for candidate in shown if candidate.turn.text not in known]:
                _add_round(session, story_id, after, new)

    def open_candidates(self, story_id: str, after: Place = "tip") -> list[Round]:
        """The rounds shown for the turn after a block (at first: for the next turn), the latest first."""
        with self._reading() as session:
            place = place_of(read_tree(session, alive(self._find(session, story_id), story_id)), after)
            here = RoundRow.story_id == story_id, RoundRow.after_id == place
            return _rounds(session, sa.select(RoundRow).where(*here))

    def rounds(self, story_id: str | None = None) -> list[Round]:
        """Every round that is stored, of one story or of all that are not deleted, the latest first."""
        query = sa.select(RoundRow).join(StoryRow, StoryRow.id == RoundRow.story_id)
        query = query.where(self._mine(StoryRow.owner), StoryRow.deleted.is_(None))
        with self._reading() as session:
            return _rounds(session, query.where(RoundRow.story_id == story_id) if story_id is not None else query)

    def delete_round(self, round_id: int) -> None:
        """Forget a round for good.

        Raises:
            InputError: the owner has no such round.
        """
        mine = sa.select(StoryRow.id).where(self._mine(StoryRow.owner))
        query = sa.delete(RoundRow).where(RoundRow.id == round_id, RoundRow.story_id.in_(mine))
        with self._writing() as session:
            if not session.execute(query.returning(RoundRow.id)).all():
                raise InputError(f"round {round_id}: you have no such round of suggestions (any more)")

    def shown(self, with_consent: bool = False) -> list[ShownTurn]:
        """The candidates of every turn, by story and place; not those of blocks and stories that were deleted.

        With `with_consent` only those of owners whose setting WEAK_PREFERENCES is true.
        """
        query = sa.select(StoryRow).where(self._mine(StoryRow.owner), StoryRow.deleted.is_(None))
        with self._reading() as session:
            if with_consent:
                settings = sa.select(SettingRow).where(SettingRow.key == WEAK_PREFERENCES)
                agreed = [row.owner for row in session.scalars(settings) if row.value is True]
                query = query.where(StoryRow.owner.in_(agreed))
            shown = RoundRow.story_id.in_(query.with_only_columns(StoryRow.id))
            places: dict[str, dict[int | None, list[ShownCandidate]]] = defaultdict(lambda: defaultdict(list))
            for each in reversed(_rounds(session, sa.select(RoundRow).where(shown))):
                places[each.story_id][each.after] += each.candidates
            stories = [row for row in session.scalars(query.order_by(StoryRow.id)) if row.id in places]
            return [turn for row in stories for turn in _shown_turns(read_tree(session, row), places[row.id])]


def _add_round(session: Session, story_id: str, after: int | None, shown: Sequence[ShownCandidate]) -> Round:
    round_row = RoundRow(story_id=story_id, after_id=after)
    session.add(round_row)
    session.flush()
    for c in shown:
        turn = c.turn
        row = CandidateRow(round_id=round_row.id, kind=turn.kind.value, actor=turn.actor, text=turn.text)
        row.scores, row.reward, row.picked = c.scores, c.reward, c.picked
        session.add(row)
        session.flush()
    [added] = _rounds(session, sa.select(RoundRow).where(RoundRow.id == round_row.id))
    return added


def _rounds(session: Session, query: sa.Select[RoundRow]) -> list[Round]:
    """The rounds of a query, the latest first."""
    ids = query.with_only_columns(RoundRow.id)
    candidates: dict[int, list[ShownCandidate]] = defaultdict(list)
    of_these = sa.select(CandidateRow).where(CandidateRow.round_id.in_(ids)).order_by(CandidateRow.id)
    for row in session.scalars(of_these):
        candidates[row.round_id].append(ShownCandidate(turn_of(row), row.scores, row.reward, row.picked, row.id))
    return [
        Round(row.id, row.story_id, row.after_id, row.created, tuple(candidates[row.id]))
        for row in session.scalars(query.order_by(RoundRow.id.desc()))
    ]


def _shown_turns(tree: Tree, places: Mapping[int | None, Sequence[ShownCandidate]]) -> Iterator[ShownTurn]:
    """What was shown after each block, in reading order."""
    for place in (None, *(node.id for node in tree.nodes)):
        if place in places:
            before = tuple(node.turn for node in tree.path_to(place))
            yield ShownTurn(tree.prompt, before, tuple(places[place]))
