"""The database under the store: where it is, how it opens and migrates, its transactions and its errors."""

import contextlib
import copy
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any, Self

import platformdirs
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy.exc import ArgumentError, IntegrityError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.orm import Session

from storyrl.errors import InputError
from storyrl.store.records import OWNER, Stale
from storyrl.store.tables import StoryRow

_BUSY_SECONDS = 30
_LONGEST_OWNER = 200
_MIGRATION_LOCK = 7_390_173  # any number that other programs do not use


class Database:
    """An open database, seen by one owner (None: everybody's rows, and what is new belongs to "local")."""

    _owner: Callable[[], str] | None = None

    def __init__(self, url: str | None = None):
        self.url = _url(url)
        try:
            engine = sa.create_engine(self.url)
        except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
            raise InputError(
                f"--db {url}: no usable database URL ({error}); give a file or e.g. sqlite:///my.db"
            ) from error
        self._engine: sa.Engine = engine
        self._reader: sa.Engine = engine
        self._writer: sa.Engine = engine
        if engine.dialect.name == "sqlite":
            sa.event.listen(engine, "connect", _set_up_sqlite)
            sa.event.listen(engine, "begin", _begin_sqlite)
            self._writer = engine.execution_options(begin="BEGIN IMMEDIATE")
        else:
            self._reader = engine.execution_options(isolation_level="REPEATABLE READ")
        with self._errors():
            self._migrate()

    @property
    def owner(self) -> str | None:
        """Whose rows this is a view of; None: everybody's."""
        return self._owner() if self._owner else None

    def for_owner(self, owner: str | Callable[[], str]) -> Self:
        """The same database as one user sees it: only that owner's stories, ratings and settings.

        A function is asked for the owner whenever one is needed: a server has one view for all of its users.

        Raises:
            InputError: the name is empty or longer than 200 characters.
        """
        if isinstance(owner, str) and not (owner.strip() and len(owner) <= _LONGEST_OWNER):
            raise InputError(f"user name: expected 1 to {_LONGEST_OWNER} characters, got {len(owner)}")
        view = copy.copy(self)
        view._owner = (lambda: owner) if isinstance(owner, str) else owner
        return view

    def close(self) -> None:
        """Give back the connections."""
        self._engine.dispose()

    def _migrate(self) -> None:
        config = Config()
        config.set_main_option("script_location", str(resources.files("storyrl").joinpath("migrations")))
        with self._writer.begin() as connection:  # two processes may open a new database at once
            if connection.dialect.name == "postgresql":
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})")
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
        except (UnicodeEncodeError, OverflowError) as error:  # lone surrogates, numbers beyond 64 bits
            raise InputError(f"database {self._name()}: refuses the value ({error})") from error

    def _name(self) -> str:
        return self._engine.url.render_as_string(hide_password=True)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Session]:
        """A transaction that sees one state of the database."""
        with self._errors(), Session(self._reader) as session, session.begin():
            yield session

    @contextlib.contextmanager
    def _writing(self) -> Iterator[Session]:
        """A transaction that writes; all of it or, after an exception, nothing."""
        with self._errors(), Session(self._writer) as session, session.begin():
            yield session

    @property
    def _me(self) -> str:
        return self.owner or OWNER

    def _mine(self, column: Any) -> sa.ColumnElement[bool]:
        """The condition that a row is one that this owner may see."""
        return column == self.owner if self.owner is not None else sa.true()

    def _find(self, session: Session, story_id: str, lock: bool = False) -> StoryRow | None:
        """A story of this owner, deleted or not; `lock` keeps it from other writers until the transaction ends."""
        query = sa.select(StoryRow).where(StoryRow.id == story_id, self._mine(StoryRow.owner))
        return session.scalar(query.with_for_update() if lock else query)

    @contextlib.contextmanager
    def _locked(self, story_id: str, expected_version: int) -> Iterator[tuple[Session, StoryRow]]:
        """A transaction on a story that is at the version that the caller saw."""
        with self._writing() as session:
            yield session, alive(self._find(session, story_id, lock=True), story_id, expected_version)


def checked(row: StoryRow | None, story_id: str, expected_version: int | None = None) -> StoryRow:
    """`row`, if it is there and at the version that the caller saw (None: at whichever).

    Raises:
        InputError: there is no such story.
        Stale: it is at another version.
    """
    if row is None:
        raise InputError(f"story '{story_id[:60]}': you have no such story")
    if expected_version is not None and row.version != expected_version:
        raise Stale(
            f"story '{row.title[:60]}': was changed in another window (it is at version {row.version}, "
            f"you saw {expected_version}); reload it to go on from there"
        )
    return row


def alive(row: StoryRow | None, story_id: str, expected_version: int | None = None) -> StoryRow:
    """As `checked`, and the story must not be deleted."""
    if row is not None and row.deleted is not None:
        raise InputError(f"story '{row.title[:60]}': was deleted; take it back from the deleted ones first")
    return checked(row, story_id, expected_version)


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
    connection.isolation_level = None  # transactions begin where _begin_sqlite says, for reading too
    connection.create_function("lower", 1, _lower, deterministic=True)  # SQLite's own knows ASCII only
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute(f"PRAGMA busy_timeout = {_BUSY_SECONDS * 1000}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")


def _begin_sqlite(connection: sa.Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("begin", "BEGIN"))


def _lower(text: str | None) -> str | None:
    return text.lower() if text is not None else None
