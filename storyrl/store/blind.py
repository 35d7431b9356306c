"""Blind tests in the store: pairs of stories by two policies, which of the two stands where, and the answers."""

import random
from collections import defaultdict
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from storyrl.errors import InputError
from storyrl.store.database import Database
from storyrl.store.records import Answer, BlindPair, BlindTest
from storyrl.store.tables import BlindAnswerRow, BlindTestRow, now
from storyrl.story import Prompt

_CHANCE = random.SystemRandom()
_GONE = "this pair was answered already, perhaps in another window; here is the next one"


class Blind(Database):
    """Blind tests. Seen by one owner they are that owner's, and new ones become so."""

    def add_blind_pairs(self, before: str, after: str, pairs: Sequence[tuple[Prompt, str, str]]) -> BlindTest:
        """Add pairs to the test between two policies, which is begun if there is none.

        Which story is A is drawn here: each policy's stories are A in half of the pairs (of an odd number, one more or
        less), in random order.

        Args:
            before: name of the policy before tuning.
            after: name of the tuned policy.
            pairs: prompt, story of the policy before, story of the tuned one; at least one.

        Raises:
            InputError: there are no pairs.
        """
        if not pairs:
            raise InputError("a blind test needs at least one pair of stories")
        sides = [number % 2 == 0 for number in range(len(pairs))]
        if _CHANCE.random() < 0.5:
            sides = [not side for side in sides]
        _CHANCE.shuffle(sides)
        with self._writing() as session:
            query = sa.select(BlindTestRow).where(BlindTestRow.before == before, BlindTestRow.after == after)
            test = session.scalars(query.where(BlindTestRow.owner == self._me).with_for_update()).first()
            if test is None:
                test = BlindTestRow(owner=self._me, before=before, after=after)
                session.add(test)
                session.flush()
            for (prompt, text_before, text_after), side in zip(pairs, sides, strict=True):
                row = BlindAnswerRow(test_id=test.id, prompt=prompt.model_dump(mode="json"), after_is_a=side)
                row.text_before, row.text_after = text_before, text_after
                session.add(row)
            session.flush()
            return _tests(session, [test])[0]

    def blind_tests(self) -> list[BlindTest]:
        """All tests, the latest first, each with its pairs in the order in which they are asked."""
        query = sa.select(BlindTestRow).where(self._mine(BlindTestRow.owner)).order_by(BlindTestRow.id.desc())
        with self._reading() as session:
            return _tests(session, list(session.scalars(query)))

    def answer_blind_pair(self, pair_id: int, answer: Answer) -> None:
        """Keep the answer to a pair, for good.

        Raises:
            InputError: the owner has no such pair, it was answered already, or the answer is not A, B or tie.
        """
        if answer not in (Answer.A, Answer.B, Answer.TIE):
            raise InputError(f"blind test: expected the answer A, B or tie, got '{answer}'")
        mine = sa.select(BlindTestRow.id).where(self._mine(BlindTestRow.owner))
        query = sa.update(BlindAnswerRow).where(BlindAnswerRow.id == pair_id, BlindAnswerRow.test_id.in_(mine))
        query = query.where(BlindAnswerRow.answer.is_(None)).values(answer=answer.value, answered=now())
        with self._writing() as session:
            if not session.execute(query.returning(BlindAnswerRow.id)).all():
                raise InputError(_GONE)

    def undo_blind_answer(self, pair_id: int) -> None:
        """Take back the answer to a pair, to be asked again, as long as another pair of its test is open.

        Once all are answered the page tells who won, and the answers stand.

        Raises:
            InputError: the owner has no such pair with an answer, or all of its test are answered.
        """
        mine = sa.select(BlindTestRow.id).where(self._mine(BlindTestRow.owner))
        open_tests = sa.select(BlindAnswerRow.test_id).where(BlindAnswerRow.answer.is_(None))
        query = sa.update(BlindAnswerRow).where(BlindAnswerRow.id == pair_id, BlindAnswerRow.answer.is_not(None))
        query = query.where(BlindAnswerRow.test_id.in_(mine), BlindAnswerRow.test_id.in_(open_tests))
        with self._writing() as session:
            if not session.execute(query.values(answer=None, answered=None).returning(BlindAnswerRow.id)).all():
                raise InputError("this answer can't be taken back: it was already, or the test has been told")


def _tests(session: Session, rows: Sequence[BlindTestRow]) -> list[BlindTest]:
    pairs: dict[int, list[BlindPair]] = defaultdict(list)
    query = sa.select(BlindAnswerRow).where(BlindAnswerRow.test_id.in_([row.id for row in rows]))
    for each in session.scalars(query.order_by(BlindAnswerRow.id)):
        answer = Answer(each.answer) if each.answer else None
        prompt = Prompt.model_validate(each.prompt)
        pairs[each.test_id].append(
            BlindPair(each.id, prompt, each.text_before, each.text_after, each.after_is_a, answer)
        )
    return [BlindTest(row.id, row.before, row.after, row.created, tuple(pairs[row.id])) for row in rows]
