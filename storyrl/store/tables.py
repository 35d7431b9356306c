"""The tables, as the migrations make them.

A row of `turns` is never deleted while its story lives, only marked as removed: undoing brings it back with its id.
"""

from datetime import UTC, datetime
from typing import Any, ClassVar

import sqlalchemy as sa
from sqlalchemy import CheckConstraint, ForeignKey, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from storyrl.story import Kind, Turn


def now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)


class UtcTime(sa.TypeDecorator[datetime]):
    """Points of time in UTC, also where the database (SQLite) forgets the zone."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_result_value(self, value: datetime | None, dialect: Any) -> datetime | None:
        """The time with its zone."""
        return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value


class Base(DeclarativeBase):
    """All tables."""

    type_annotation_map: ClassVar[dict[Any, Any]] = {
        dict[str, Any]: sa.JSON,
        list[Any]: sa.JSON,
        datetime: UtcTime,
        str: Text,
    }


class StoryRow(Base):
    """A story. `tip_id` is the last turn of its current path, which `turn_count` and `word_count` count."""

    __tablename__ = "stories"
    id: Mapped[str] = mapped_column(String(200), primary_key=True)
    owner: Mapped[str] = mapped_column(String(200), index=True)
    title: Mapped[str]
    prompt: Mapped[dict[str, Any]]
    version: Mapped[int] = mapped_column(default=1)
    tip_id: Mapped[int | None]  # no foreign key: turns refer to stories already
    turn_count: Mapped[int] = mapped_column(default=0)
    word_count: Mapped[int] = mapped_column(default=0)
    created: Mapped[datetime] = mapped_column(default=now)
    updated: Mapped[datetime] = mapped_column(default=now)
    deleted: Mapped[datetime | None]


class TurnRow(Base):
    """A block of a story's tree."""

    __tablename__ = "turns"
    id: Mapped[int] = mapped_column(primary_key=True)
    story_id: Mapped[str] = mapped_column(String(200), ForeignKey("stories.id", ondelete="CASCADE"), index=True)
    parent_id: Mapped[int | None] = mapped_column(ForeignKey("turns.id", ondelete="SET NULL"), index=True)
    kind: Mapped[str] = mapped_column(String(20))
    actor: Mapped[str | None]
    text: Mapped[str]
    author: Mapped[str] = mapped_column(String(20))
    removed: Mapped[bool] = mapped_column(default=False)
    created: Mapped[datetime] = mapped_column(default=now)


class OperationRow(Base):
    """A step that can be undone: [table, row id, values before, values after] of each row that it touched."""

    __tablename__ = "operations"
    id: Mapped[int] = mapped_column(primary_key=True)
    story_id: Mapped[str] = mapped_column(String(200), ForeignKey("stories.id", ondelete="CASCADE"), index=True)
    name: Mapped[str] = mapped_column(String(40))
    changes: Mapped[list[Any]]
    undone: Mapped[bool] = mapped_column(default=False)
    created: Mapped[datetime] = mapped_column(default=now)


class RoundRow(Base):
    """Candidates shown together; `after_id` is the turn after which they stood, null at the beginning."""

    __tablename__ = "rounds"
    id: Mapped[int] = mapped_column(primary_key=True)
    story_id: Mapped[str] = mapped_column(String(200), ForeignKey("stories.id", ondelete="CASCADE"), index=True)
    after_id: Mapped[int | None] = mapped_column(ForeignKey("turns.id", ondelete="CASCADE"), index=True)
    created: Mapped[datetime] = mapped_column(default=now)


class CandidateRow(Base):
    """A candidate turn of a round; `turn_id` is the block that it became when it was picked."""

    __tablename__ = "candidates"
    id: Mapped[int] = mapped_column(primary_key=True)
    round_id: Mapped[int] = mapped_column(ForeignKey("rounds.id", ondelete="CASCADE"), index=True)
    kind: Mapped[str] = mapped_column(String(20))
    actor: Mapped[str | None]
    text: Mapped[str]
    scores: Mapped[dict[str, Any]]
    reward: Mapped[float]
    picked: Mapped[bool]
    turn_id: Mapped[int | None] = mapped_column(ForeignKey("turns.id", ondelete="SET NULL"))
    created: Mapped[datetime] = mapped_column(default=now)


class ForgottenRow(Base):
    """A weak preference that its writer deleted: one candidate over another, or (the same twice) an edit of it."""

    __tablename__ = "forgotten_preferences"
    better_id: Mapped[int] = mapped_column(ForeignKey("candidates.id", ondelete="CASCADE"), primary_key=True)
    worse_id: Mapped[int] = mapped_column(ForeignKey("candidates.id", ondelete="CASCADE"), primary_key=True)


class PoolRow(Base):
    """A story that was written to be compared with others for the same prompt."""

    __tablename__ = "pool_stories"
    id: Mapped[int] = mapped_column(primary_key=True)
    owner: Mapped[str] = mapped_column(String(200), index=True)
    prompt: Mapped[dict[str, Any]]
    text: Mapped[str]
    policy: Mapped[str]
    created: Mapped[datetime] = mapped_column(default=now)


class OpenPairRow(Base):
    """The pair that an owner is asked about. `key` is another one each time; `draft` is what was said of it so far."""

    __tablename__ = "open_pairs"
    owner: Mapped[str] = mapped_column(String(200), primary_key=True)
    key: Mapped[str] = mapped_column(String(40))
    story_a_id: Mapped[int] = mapped_column(ForeignKey("pool_stories.id", ondelete="CASCADE"))
    story_b_id: Mapped[int] = mapped_column(ForeignKey("pool_stories.id", ondelete="CASCADE"))
    repeat_of: Mapped[int | None] = mapped_column(ForeignKey("comparisons.id", ondelete="SET NULL"))
    draft: Mapped[dict[str, Any]]


class RatingRow(Base):
    """A mark for a text; `comparison_id` is the answer that it was given with."""

    __tablename__ = "ratings"
    id: Mapped[int] = mapped_column(primary_key=True)
    prompt: Mapped[dict[str, Any]]
    text: Mapped[str]
    rater: Mapped[str] = mapped_column(String(200))
    aspect: Mapped[str] = mapped_column(String(100))
    value: Mapped[int]
    comment: Mapped[str]
    comparison_id: Mapped[int | None] = mapped_column(ForeignKey("comparisons.id", ondelete="CASCADE"), index=True)
    created: Mapped[datetime] = mapped_column(default=now)
    __table_args__ = (CheckConstraint("value between 1 and 5", name="ck_ratings_value"),)


class ComparisonRow(Base):
    """A blind comparison of two texts. `repeat_of` is the answer of which this one asked again."""

    __tablename__ = "comparisons"
    id: Mapped[int] = mapped_column(primary_key=True)
    prompt: Mapped[dict[str, Any]]
    text_a: Mapped[str]
    text_b: Mapped[str]
    answer: Mapped[str] = mapped_column(String(20))
    rater: Mapped[str] = mapped_column(String(200))
    policy_a: Mapped[str]
    policy_b: Mapped[str]
    comment: Mapped[str]
    story_a_id: Mapped[int | None] = mapped_column(ForeignKey("pool_stories.id", ondelete="SET NULL"))
    story_b_id: Mapped[int | None] = mapped_column(ForeignKey("pool_stories.id", ondelete="SET NULL"))
    repeat_of: Mapped[int | None] = mapped_column(ForeignKey("comparisons.id", ondelete="SET NULL"))
    created: Mapped[datetime] = mapped_column(default=now)
    __table_args__ = (CheckConstraint("answer in ('A', 'B', 'tie', 'both_bad')", name="ck_comparisons_answer"),)


class BlindTestRow(Base):
    """A blind test between two policies, by their names."""

    __tablename__ = "blind_tests"
    id: Mapped[int] = mapped_column(primary_key=True)
    owner: Mapped[str] = mapped_column(String(200), index=True)
    before: Mapped[str]
    after: Mapped[str]
    created: Mapped[datetime] = mapped_column(default=now)


class BlindAnswerRow(Base):
    """A pair of a blind test: where its stories stand, and the answer once it is given."""

    __tablename__ = "blind_answers"
    id: Mapped[int] = mapped_column(primary_key=True)
    test_id: Mapped[int] = mapped_column(ForeignKey("blind_tests.id", ondelete="CASCADE"), index=True)
    prompt: Mapped[dict[str, Any]]
    text_before: Mapped[str]
    text_after: Mapped[str]
    after_is_a: Mapped[bool]
    answer: Mapped[str | None] = mapped_column(String(20))
    answered: Mapped[datetime | None]
    __table_args__ = (CheckConstraint("answer in ('A', 'B', 'tie')", name="ck_blind_answers_answer"),)


class SettingRow(Base):
    """A setting of one owner, as JSON."""

    __tablename__ = "settings"
    owner: Mapped[str] = mapped_column(String(200), primary_key=True)
    key: Mapped[str] = mapped_column(String(100), primary_key=True)
    value: Mapped[Any] = mapped_column(sa.JSON)


def turn_of(row: TurnRow | CandidateRow) -> Turn:
    """The turn that a row holds; candidates are the policy's."""
    author = row.author if isinstance(row, TurnRow) else "policy"
    return Turn.model_validate({"kind": Kind(row.kind), "actor": row.actor, "text": row.text, "author": author})


def columns_of(turn: Turn) -> dict[str, Any]:
    """A turn as the columns of a row of turns."""
    return {"kind": turn.kind.value, "actor": turn.actor, "text": turn.text, "author": turn.author}
