"""What the model suggested: rounds of candidates, each shown after a block of a story. They are kept until the writer
deletes them; picks among them, and what the writer made of the picked ones, are weak preferences, which count only
where their owner agreed to it. A weak preference can be deleted by itself: the candidates stay.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from storyrl.errors import InputError
from storyrl.store.changes import read_tree
from storyrl.store.database import Database, alive
from storyrl.store.records import WEAK_PREFERENCES, Round, ShownCandidate, ShownTurn, Weak, WeakPreference
from storyrl.store.tables import CandidateRow, ForgottenRow, RoundRow, SettingRow, StoryRow, turn_of
from storyrl.store.tree import Tree
from storyrl.store.writing import Place, place_of
from storyrl.story import Turn


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
            rounds: dict[str, list[Round]] = defaultdict(list)
            for each in reversed(_rounds(session, sa.select(RoundRow).where(shown))):
                rounds[each.story_id].append(each)
            forgotten = {(row.better_id, row.worse_id) for row in session.scalars(sa.select(ForgottenRow))}
            became = sa.select(CandidateRow.id, CandidateRow.turn_id).where(CandidateRow.turn_id.is_not(None))
            blocks = {candidate: turn for candidate, turn in session.execute(became) if turn is not None}
            return [
                turn
                for row in session.scalars(query.order_by(StoryRow.id))
                if row.id in rounds
                for turn in _shown_turns(read_tree(session, row), rounds[row.id], blocks, forgotten)
            ]

    def weak_preferences(self) -> list[WeakPreference]:
        """All weak preferences that there are, whether they are used or not, the latest first."""
        found = [weak for turn in self.shown() for weak in turn.weak]
        return sorted(found, key=lambda weak: (weak.created, weak.key), reverse=True)

    def forget_preferences(self, keys: Collection[tuple[int, int]]) -> None:
        """Delete weak preferences for good; the suggestions that they are about stay with their story.

        Raises:
            InputError: the owner has no such candidates.
        """
        mine = sa.select(CandidateRow.id).join(RoundRow).join(StoryRow).where(self._mine(StoryRow.owner))
        numbers = {number for key in keys for number in key}
        with self._writing() as session:
            if missing := numbers - set(session.scalars(mine)):
                raise InputError(f"suggestion {min(missing)}: you have no such suggestion (any more)")
            for better, worse in keys:
                session.merge(ForgottenRow(better_id=better, worse_id=worse))


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


def _shown_turns(
    tree: Tree,
    rounds: Sequence[Round],
    blocks: Mapping[int, int],
    forgotten: Collection[tuple[int, int]],
) -> Iterator[ShownTurn]:
    """What was shown after each block, in reading order.

    Args:
        rounds: those of the story, the oldest first.
        blocks: which block a candidate became.
        forgotten: keys of the weak preferences that were deleted.
    """
    places: dict[int | None, list[Round]] = defaultdict(list)
    for each in rounds:
        places[each.after].append(each)
    for place in (None, *(node.id for node in tree.nodes)):
        if place in places:
            candidates = tuple(c for each in places[place] for c in each.candidates)
            here = set(tree.following(place))
            became = {
                c.id: tree.node(blocks[c.id]).turn for c in candidates if c.id is not None and blocks.get(c.id) in here
            }
            weak = [w for w in _weak_preferences(tree, places[place], became) if w.key not in forgotten]
            before = tuple(node.turn for node in tree.path_to(place))
            yield ShownTurn(tree.prompt, before, candidates, tuple(weak))


def _weak_preferences(tree: Tree, rounds: Sequence[Round], became: Mapping[int, Turn]) -> Iterator[WeakPreference]:
    """What picks among the rounds of one place say, and what the picked ones `became` by edits."""
    for number, own in enumerate(rounds):
        for best in own.candidates:
            if not best.picked or best.id is None:
                continue
            of_story = tree.story_id, tree.title, own.created
            for each in rounds[: number + 1]:
                how = Weak.PICKED if each is own else Weak.ASKED_ANEW
                for other in each.candidates:
                    if not other.picked and other.id is not None and other.turn != best.turn:
                        yield WeakPreference(how, best.turn, other.turn, (best.id, other.id), *of_story)
            edited = became.get(best.id)
            if edited and edited.prose() != best.turn.prose():
                yield WeakPreference(Weak.EDITED, edited, best.turn, (best.id, best.id), *of_story)
