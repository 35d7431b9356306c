"""Branches, undo steps, versions, owners, deleted stories, rounds of candidates, settings."""

from collections import defaultdict
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_TIME = sa.DateTime(timezone=True)


def _table(name: str, *columns: sa.Column) -> sa.Table:
    return sa.Table(name, sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), *columns)


def _texts(*names: str) -> list[sa.Column]:
    return [sa.Column(name, sa.Text) for name in names]


_STORIES = sa.table("stories", *(sa.column(name) for name in ("id", "tip_id", "turn_count", "word_count")))
_TURNS = sa.table("turns", *(sa.column(name) for name in ("id", "story_id", "position", "text")))
_NEW_TURNS = _table(
    "turns",
    sa.Column("parent_id", sa.Integer),
    sa.Column("removed", sa.Boolean),
    sa.Column("created", _TIME),
    *_texts("story_id", "kind", "actor", "text", "author"),
)
_CANDIDATES = _table(
    "candidates",
    sa.Column("position", sa.Integer),
    sa.Column("round_id", sa.Integer),
    sa.Column("picked", sa.Boolean),
    sa.Column("created", _TIME),
    *_texts("story_id", "kind", "actor", "text"),
)
_ROUNDS = _table("rounds", sa.Column("after_id", sa.Integer), sa.Column("created", _TIME), *_texts("story_id"))


def upgrade() -> None:
    _stories()
    _turns()
    op.create_table(
        "operations",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("story_id", sa.String(200), sa.ForeignKey("stories.id", ondelete="CASCADE"), nullable=False),
        sa.Column("name", sa.String(40), nullable=False),
        sa.Column("changes", sa.JSON, nullable=False),
        sa.Column("undone", sa.Boolean, nullable=False),
        sa.Column("created", _TIME, nullable=False),
    )
    op.create_index("ix_operations_story_id", "operations", ["story_id"])
    op.create_table(
        "settings",
        sa.Column("owner", sa.String(200), primary_key=True),
        sa.Column("key", sa.String(100), primary_key=True),
        sa.Column("value", sa.JSON, nullable=False),
    )


def _stories() -> None:
    for column in (
        sa.Column("owner", sa.String(200), nullable=False, server_default="local"),
        sa.Column("version", sa.Integer, nullable=False, server_default="1"),
        sa.Column("tip_id", sa.Integer),
        sa.Column("turn_count", sa.Integer, nullable=False, server_default="0"),
        sa.Column("word_count", sa.Integer, nullable=False, server_default="0"),
        sa.Column("deleted", _TIME),
    ):
        op.add_column("stories", column)  # not in batch mode: SQLite would drop the table and with it what refers to it
    op.create_index("ix_stories_owner", "stories", ["owner"])


def _turns() -> None:
    """Each turn gets the one before it as its parent, instead of a position; the last one is the story's tip."""
    connection = op.get_bind()
    order = sa.select(_TURNS.c.id, _TURNS.c.story_id, _TURNS.c.text).order_by(_TURNS.c.story_id, _TURNS.c.position)
    parents: list[dict[str, int]] = []
    paths: dict[str, list[int]] = defaultdict(list)
    words: dict[str, int] = defaultdict(int)
    for turn_id, story_id, text in connection.execute(order):
        if paths[story_id]:
            parents.append({"turn": turn_id, "parent": paths[story_id][-1]})
        paths[story_id].append(turn_id)
        words[story_id] += len(text.split())
    op.add_column("turns", sa.Column("created", _TIME))
    op.execute("UPDATE turns SET created = (SELECT s.created FROM stories AS s WHERE s.id = turns.story_id)")
    op.drop_index("ix_turns_story_id_position", "turns")
    with op.batch_alter_table("turns") as batch:
        batch.add_column(sa.Column("removed", sa.Boolean, nullable=False, server_default=sa.false()))
        batch.alter_column("created", existing_type=_TIME, nullable=False)
        batch.drop_column("position")
    op.create_index("ix_turns_story_id", "turns", ["story_id"])
    op.create_index("ix_turns_parent_id", "turns", ["parent_id"])
    if parents:
        connection.execute(sa.text("UPDATE turns SET parent_id = :parent WHERE id = :turn"), parents)
    for story_id, path in paths.items():
        values = {"tip_id": path[-1], "turn_count": len(path), "word_count": words[story_id]}
        connection.execute(_STORIES.update().where(_STORIES.c.id == story_id).values(values))
    _rounds(connection, paths)


def _rounds(connection: sa.Connection, paths: dict[str, list[int]]) -> None:
    """The candidates of a position become a round, shown after the turn before it."""
    op.create_table(
        "rounds",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("story_id", sa.String(200), sa.ForeignKey("stories.id", ondelete="CASCADE"), nullable=False),
        sa.Column("after_id", sa.Integer, sa.ForeignKey("turns.id", ondelete="CASCADE")),
        sa.Column("created", _TIME, nullable=False),
    )
    op.create_index("ix_rounds_story_id", "rounds", ["story_id"])
    op.create_index("ix_rounds_after_id", "rounds", ["after_id"])
    op.add_column("candidates", sa.Column("round_id", sa.Integer))
    places = (
        sa.select(_CANDIDATES.c.story_id, _CANDIDATES.c.position, sa.func.min(_CANDIDATES.c.created))
        .group_by(_CANDIDATES.c.story_id, _CANDIDATES.c.position)
        .order_by(_CANDIDATES.c.story_id, _CANDIDATES.c.position)
    )
    for story_id, position, created in connection.execute(places).all():
        path = paths[story_id]
        while len(path) < position:
            path.append(_removed_turn(connection, story_id, path, created))
        after = path[position - 1] if position else None
        round_id = _insert(connection, _ROUNDS, story_id=story_id, after_id=after, created=created)
        here = (_CANDIDATES.c.story_id == story_id) & (_CANDIDATES.c.position == position)
        connection.execute(_CANDIDATES.update().where(here).values(round_id=round_id))
    op.drop_index("ix_candidates_story_id_position", "candidates")
    with op.batch_alter_table("candidates") as batch:
        batch.alter_column("round_id", existing_type=sa.Integer, nullable=False)
        batch.create_foreign_key("fk_candidates_round_id", "rounds", ["round_id"], ["id"], ondelete="CASCADE")
        batch.drop_column("story_id")
        batch.drop_column("position")
    op.create_index("ix_candidates_round_id", "candidates", ["round_id"])


def _removed_turn(connection: sa.Connection, story_id: str, path: list[int], created: datetime) -> int:
    """A turn that was there when candidates were shown after it and was taken back: the candidate that was picked for
    it, or, as the writer's own words were not kept, an ellipsis."""
    c = _CANDIDATES.c
    picked = sa.select(c.kind, c.actor, c.text).where(c.story_id == story_id, c.position == len(path), c.picked)
    row = connection.execute(picked.order_by(c.id.desc())).first()
    values = {**row._mapping, "author": "policy"} if row else {"kind": "narrate", "text": "…", "author": "writer"}
    place = {"story_id": story_id, "parent_id": path[-1] if path else None, "removed": True, "created": created}
    return _insert(connection, _NEW_TURNS, **values, **place)


def _insert(connection: sa.Connection, table: sa.Table, **values: Any) -> int:
    key = connection.execute(table.insert().values(values)).inserted_primary_key
    assert key is not None  # of a single row there is one
    return key[0]
