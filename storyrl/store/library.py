"""The library: an owner's stories as a list, their titles, copies and deletion, and the owner's settings."""

import uuid
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from storyrl.errors import InputError
from storyrl.store.changes import Change, finish, read_tree
from storyrl.store.database import Database, alive, checked
from storyrl.store.records import StoryInfo
from storyrl.store.tables import SettingRow, StoryRow, TurnRow, columns_of, now

KEPT_DAYS = 30
"""How long a deleted story can be taken back."""

_LONGEST_TITLE = 200


class Library(Database):
    """Stories from outside. Opening it removes for good what was deleted more than 30 days ago.

    Raises:
        InputError: (from every method that takes a story's id) the owner has no such story.
        Stale: (from every method that takes `expected_version`) another window changed the story meanwhile.
    """

    def __init__(self, url: str | None = None):
        super().__init__(url)
        with self._writing() as session:
            session.execute(sa.delete(StoryRow).where(StoryRow.deleted < now() - timedelta(days=KEPT_DAYS)))

    def list_stories(self, search: str = "", deleted: bool = False) -> list[StoryInfo]:
        """The stories whose title, premise or text (on any branch) holds `search`, the latest first; or the deleted."""
        columns = (
            StoryRow.id,
            StoryRow.title,
            StoryRow.updated,
            StoryRow.turn_count,
            StoryRow.word_count,
            StoryRow.version,
            StoryRow.deleted,
        )
        gone = StoryRow.deleted.is_not(None) if deleted else StoryRow.deleted.is_(None)
        query = sa.select(*columns).where(self._mine(StoryRow.owner), gone)
        if words := search.strip():
            text = TurnRow.text.icontains(words, autoescape=True)
            query = query.where(
                StoryRow.title.icontains(words, autoescape=True)
                | StoryRow.prompt["premise"].as_string().icontains(words, autoescape=True)
                | StoryRow.id.in_(sa.select(TurnRow.story_id).where(text, ~TurnRow.removed))
            )
        with self._reading() as session:
            return [StoryInfo(*row) for row in session.execute(query.order_by(StoryRow.updated.desc(), StoryRow.id))]

    def rename(self, story_id: str, title: str, expected_version: int) -> int:
        """Give a story another title; returns its new version.

        Raises:
            InputError: the title is empty or longer than 200 characters.
        """
        title = " ".join(title.split())
        if not 0 < len(title) <= _LONGEST_TITLE:
            raise InputError(f"title: expected 1 to {_LONGEST_TITLE} characters, got {len(title)}")
        with self._locked(story_id, expected_version) as (session, story):
            change = Change(session, story, "rename")
            change.set(story, title=title)
            return change.record().version

    def duplicate(self, story_id: str) -> str:
        """Copy a story with all its branches, without its suggestions and undo steps; returns the copy's id."""
        with self._writing() as session:
            story = alive(self._find(session, story_id), story_id)
            title = f"{story.title[: _LONGEST_TITLE - 7]} (copy)"
            copy = StoryRow(id=uuid.uuid4().hex, owner=story.owner, title=title, prompt=story.prompt, version=0)
            session.add(copy)
            session.flush()
            new_ids = _copy_turns(session, story, copy)
            copy.tip_id = new_ids[story.tip_id]
            finish(session, copy)
            return copy.id

    def delete_story(self, story_id: str, expected_version: int) -> int:
        """Put a story away; for 30 days `undelete_story` takes it back. Returns its new version."""
        with self._locked(story_id, expected_version) as (session, story):
            story.deleted = now()
            return finish(session, story).version

    def undelete_story(self, story_id: str, expected_version: int) -> int:
        """Take back a deleted story; returns its new version."""
        with self._writing() as session:
            story = checked(self._find(session, story_id, lock=True), story_id, expected_version)
            story.deleted = None
            return finish(session, story).version

    def get_setting(self, key: str, default: Any = None) -> Any:
        """What the owner set, as JSON gives it back, or `default`."""
        with self._reading() as session:
            row = session.get(SettingRow, (self._me, key))
            return row.value if row is not None else default

    def set_setting(self, key: str, value: Any) -> None:
        """Keep a value that JSON can hold under a key of at most 100 characters."""
        with self._writing() as session:
            session.merge(SettingRow(owner=self._me, key=key, value=value))


def _copy_turns(session: Session, story: StoryRow, copy: StoryRow) -> dict[int | None, int | None]:
    """Copy the blocks of a story; old ids to new ones."""
    nodes = read_tree(session, story).nodes
    new_ids: dict[int | None, int | None] = {None: None}
    for node in nodes:  # parents come before their children
        row = TurnRow(story_id=copy.id, parent_id=new_ids[node.parent], created=node.created, **columns_of(node.turn))
        session.add(row)
        session.flush()
        new_ids[node.id] = row.id
    return new_ids
