"""The store: stories, the candidates that were shown, ratings and comparisons, in a database.

SQLite (write-ahead log, one file in the user's data folder) unless a URL says otherwise; PostgreSQL works by its URL.
The schema is made and changed by the migrations beside this file, which run when a store opens. What it leaves out:
branches of a story (the turns table has a parent_id for them), users and their rights.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar

import platformdirs
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import CheckConstraint, ForeignKey, Index, String, Text
from sqlalchemy.exc import ArgumentError, IntegrityError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from prompts.template import format_prompt
from storyrl.errors import InputError
from storyrl.story import Kind, Prompt, Story, Turn

_BUSY_SECONDS = 30


class Answer(StrEnum):
    """What a rater said of two stories."""

    A = "A"
    B = "B"
    TIE = "tie"
    BOTH_BAD = "both_bad"


@dataclass(frozen=True)
class StoryInfo:
    """A story in a list."""

    id: str
    title: str
    updated: datetime
    turns: int


@dataclass(frozen=True)
class ShownCandidate:
    """A candidate turn that a writer saw."""

    turn: Turn
    scores: dict[str, float]
    reward: float
    picked: bool = False


@dataclass(frozen=True)
class ShownTurn:
    """All candidates that a writer saw for one turn, the oldest first, and the turns before it as they are now."""

    prompt: Prompt
    before: tuple[Turn, ...]
    candidates: tuple[ShownCandidate, ...]


@dataclass(frozen=True)
class Rating:
    """A mark from 1 to 5 for one aspect of a text."""

    prompt: Prompt
    text: str
    value: int
    aspect: str = "overall"
    rater: str = "local"
    comment: str = ""


@dataclass(frozen=True)
class Comparison:
    """A blind comparison of two texts for the same prompt."""

    prompt: Prompt
    text_a: str
    text_b: str
    answer: Answer
    rater: str = "local"
    policy_a: str = ""
    policy_b: str = ""
    comment: str = ""


# --- tables ---------------------------------------------------------------------------------------------------------


def _now() -> datetime:
    return datetime.now(UTC)


class Base(DeclarativeBase):
    """All tables."""

    type_annotation_map: ClassVar[dict[Any, Any]] = {
        dict[str, Any]: sa.JSON,
        datetime: sa.DateTime(timezone=True),
        str: Text,
    }


class _StoryRow(Base):
    __tablename__ = "stories"
    id: Mapped[str] = mapped_column(String(200), primary_key=True)
    title: Mapped[str]
    prompt: Mapped[dict[str, Any]]
    created: Mapped[datetime] = mapped_column(default=_now)
    updated: Mapped[datetime] = mapped_column(default=_now)


class _TurnRow(Base):
    __tablename__ = "turns"
    id: Mapped[int] = mapped_column(primary_key=True)
    story_id: Mapped[str] = mapped_column(String(200), ForeignKey("stories.id", ondelete="CASCADE"))
    parent_id: Mapped[int | None] = mapped_column(ForeignKey("turns.id", ondelete="SET NULL"))
    position: Mapped[int]
    kind: Mapped[str] = mapped_column(String(20))
    actor: Mapped[str | None]
    text: Mapped[str]
    author: Mapped[str] = mapped_column(String(20))
    __table_args__ = (Index("ix_turns_story_id_position", "story_id", "position"),)


class _CandidateRow(Base):
    __tablename__ = "candidates"
    id: Mapped[int] = mapped_column(primary_key=True)
    story_id: Mapped[str] = mapped_column(String(200), ForeignKey("stories.id", ondelete="CASCADE"))
    position: Mapped[int]
    kind: Mapped[str] = mapped_column(String(20))
    actor: Mapped[str | None]
    text: Mapped[str]
    scores: Mapped[dict[str, Any]]
    reward: Mapped[float]
    picked: Mapped[bool]
    created: Mapped[datetime] = mapped_column(default=_now)
    __table_args__ = (Index("ix_candidates_story_id_position", "story_id", "position"),)


class _RatingRow(Base):
    __tablename__ = "ratings"
    id: Mapped[int] = mapped_column(primary_key=True)
    prompt: Mapped[dict[str, Any]]
    text: Mapped[str]
    rater: Mapped[str] = mapped_column(String(200))
    aspect: Mapped[str] = mapped_column(String(100))
    value: Mapped[int]
    comment: Mapped[str]
    created: Mapped[datetime] = mapped_column(default=_now)
    __table_args__ = (CheckConstraint("value between 1 and 5", name="ck_ratings_value"),)


class _ComparisonRow(Base):
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
    created: Mapped[datetime] = mapped_column(default=_now)
    __table_args__ = (CheckConstraint("answer in ('A', 'B', 'tie', 'both_bad')", name="ck_comparisons_answer"),)


# --- the store ------------------------------------------------------------------------------------------------------


class Store:
    """An open database. Every method is one transaction.

    Raises:
        InputError: (from any method) the database cannot be opened, read or written, or refuses a value.
    """

    def __init__(self, url: str | None = None):
        self.url = _url(url)
        try:
            self._engine = sa.create_engine(self.url)
        except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
            raise InputError(
                f"--db {url}: no usable database URL ({error}); give a file or e.g. sqlite:///my.db"
            ) from error
        if self._engine.dialect.name == "sqlite":
            sa.event.listen(self._engine, "connect", _set_up_sqlite)
        with self._errors():
            self._migrate()

    def _migrate(self) -> None:
        config = Config()
        config.set_main_option("script_location", str(resources.files("storyrl").joinpath("migrations")))
        with self._engine.begin() as connection:
            if self._engine.dialect.name == "sqlite":
                connection.exec_driver_sql("BEGIN IMMEDIATE")  # two processes may open a new file at once
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except IntegrityError as error:
            raise InputError(f"database {self._name()}: refuses the value ({error.orig})") from error
        except CommandError as error:
            raise InputError(
                f"database {self._name()}: was made by a newer storyrl ({error}); update storyrl"
            ) from error
        except SQLAlchemyError as error:
            raise InputError(f"database {self._name()}: {getattr(error, 'orig', None) or error}") from error

    def _name(self) -> str:
        return self._engine.url.render_as_string(hide_password=True)

    @contextlib.contextmanager
    def _session(self) -> Iterator[Session]:
        with self._errors(), Session(self._engine) as session, session.begin():
            yield session

    def close(self) -> None:
        """Give back the connections."""
        self._engine.dispose()

    def save_story(self, story: Story, title: str = "") -> None:
        """Insert or update a story; its turns become exactly `story.turns`. An empty title keeps the old one."""
        prompt = story.prompt.model_dump(mode="json")
        with self._session() as session:
            row = session.get(_StoryRow, story.id)
            if row is None:
                row = _StoryRow(id=story.id, title=title or _title(story.prompt), prompt=prompt)
                session.add(row)
            row.title, row.prompt, row.updated = title or row.title, prompt, _now()
            session.flush()
            session.execute(sa.delete(_TurnRow).where(_TurnRow.story_id == story.id))
            session.add_all(
                _TurnRow(
                    story_id=story.id,
                    position=i,
                    kind=turn.kind.value,
                    actor=turn.actor,
                    text=turn.text,
                    author=turn.author,
                )
                for i, turn in enumerate(story.turns)
            )

    def load_story(self, story_id: str) -> Story | None:
        """The story of that id, or None."""
        with self._session() as session:
            return _story(session, story_id)

    def list_stories(self) -> list[StoryInfo]:
        """All stories, the latest first."""
        query = (
            sa.select(_StoryRow.id, _StoryRow.title, _StoryRow.updated, sa.func.count(_TurnRow.id))
            .outerjoin(_TurnRow, _TurnRow.story_id == _StoryRow.id)
            .group_by(_StoryRow.id, _StoryRow.title, _StoryRow.updated)
            .order_by(_StoryRow.updated.desc())
        )
        with self._session() as session:
            return [StoryInfo(*row) for row in session.execute(query)]

    def delete_story(self, story_id: str) -> None:
        """Delete a story with its turns and candidates, if it is there."""
        with self._session() as session:
            session.execute(sa.delete(_StoryRow).where(_StoryRow.id == story_id))

    def set_candidates(self, story_id: str, position: int, shown: Sequence[ShownCandidate]) -> None:
        """Record which candidates were shown for the turn at `position`, and which was picked."""
        with self._session() as session:
            texts = [candidate.turn.text for candidate in shown]
            session.execute(
                sa.delete(_CandidateRow).where(
                    _CandidateRow.story_id == story_id,
                    _CandidateRow.position == position,
                    _CandidateRow.text.in_(texts),
                )
            )
            session.add_all(
                _CandidateRow(
                    story_id=story_id,
                    position=position,
                    kind=c.turn.kind.value,
                    actor=c.turn.actor,
                    text=c.turn.text,
                    scores=c.scores,
                    reward=c.reward,
                    picked=c.picked,
                )
                for c in shown
            )

    def shown(self) -> list[ShownTurn]:
        """The candidates of every turn, by story and position; not those of turns that a story no longer reaches."""
        query = sa.select(_CandidateRow).order_by(_CandidateRow.story_id, _CandidateRow.position, _CandidateRow.id)
        with self._session() as session:
            places: dict[tuple[str, int], list[ShownCandidate]] = {}
            for row in session.scalars(query):
                candidate = ShownCandidate(_turn(row), row.scores, row.reward, row.picked)
                places.setdefault((row.story_id, row.position), []).append(candidate)
            stories = {story_id: _story(session, story_id) for story_id, _ in places}
        return [
            ShownTurn(story.prompt, story.turns[:position], tuple(candidates))
            for (story_id, position), candidates in places.items()
            if (story := stories[story_id]) and position <= len(story.turns)
        ]

    def add_rating(self, rating: Rating) -> None:
        """Store a rating."""
        with self._session() as session:
            session.add(_RatingRow(**{**vars(rating), "prompt": rating.prompt.model_dump(mode="json")}))

    def add_comparison(self, comparison: Comparison) -> None:
        """Store a comparison."""
        values = {**vars(comparison), "prompt": comparison.prompt.model_dump(mode="json")}
        with self._session() as session:
            session.add(_ComparisonRow(**{**values, "answer": str(comparison.answer)}))

    def ratings(self) -> list[Rating]:
        """All ratings, the oldest first."""
        with self._session() as session:
            return [
                Rating(Prompt.model_validate(r.prompt), r.text, r.value, r.aspect, r.rater, r.comment)
                for r in session.scalars(sa.select(_RatingRow).order_by(_RatingRow.id))
            ]

    def comparisons(self) -> list[Comparison]:
        """All comparisons, the oldest first."""
        with self._session() as session:
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
                )
                for c in session.scalars(sa.select(_ComparisonRow).order_by(_ComparisonRow.id))
            ]

    def counts(self) -> dict[str, int]:
        """How many rows each table holds."""
        with self._session() as session:
            tables = (table for table in Base.metadata.sorted_tables)
            return {t.name: session.scalar(sa.select(sa.func.count()).select_from(t)) or 0 for t in tables}


def _url(url: str | None) -> str | sa.URL:
    if url is not None and "://" in url:
        return url
    path = Path(url).expanduser() if url else platformdirs.user_data_path("storyrl") / "storyrl.db"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--db {path}: cannot make its folder ({error.strerror})") from error
    return sa.URL.create("sqlite", database=str(path))


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute(f"PRAGMA busy_timeout = {_BUSY_SECONDS * 1000}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")


def _story(session: Session, story_id: str) -> Story | None:
    row = session.get(_StoryRow, story_id)
    if row is None:
        return None
    query = sa.select(_TurnRow).where(_TurnRow.story_id == story_id).order_by(_TurnRow.position)
    turns = tuple(_turn(turn, turn.author) for turn in session.scalars(query))
    return Story(id=story_id, prompt=Prompt.model_validate(row.prompt), turns=turns)


def _turn(row: _TurnRow | _CandidateRow, author: str = "policy") -> Turn:
    return Turn.model_validate({"kind": Kind(row.kind), "actor": row.actor, "text": row.text, "author": author})


def _title(prompt: Prompt) -> str:
    words = prompt.premise.split()
    return " ".join(words[:8]).rstrip(".,;:") + "..." if len(words) > 8 else prompt.premise


def preferences(store: Store) -> list[dict[str, Any]]:
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
