"""Changes of one story that can be undone: an operations log of what each touched row held before and after.

Undo writes back the values before, redo those after; both end exactly where the step began or ended, because every
change of a logged value goes through the log and steps are undone in reverse order. A new step drops what was undone.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa
from pydantic_core import to_jsonable_python
from sqlalchemy.orm import Session

from storyrl.errors import InputError
from storyrl.store.tables import CandidateRow, OperationRow, StoryRow, TurnRow, columns_of, now, turn_of
from storyrl.store.tree import Node, Tree, depth_first
from storyrl.story import Prompt, Turn

UNDO_STEPS = 200
"""Steps of a story that can be undone; older ones are forgotten."""


def read_tree(session: Session, story: StoryRow) -> Tree:
    """The story as it is in this transaction."""
    return _tree(session, story, {row.id: row for row in _turn_rows(session, story) if not row.removed})


def _turn_rows(session: Session, story: StoryRow) -> Iterable[TurnRow]:
    return session.scalars(sa.select(TurnRow).where(TurnRow.story_id == story.id).order_by(TurnRow.id))


def _tree(session: Session, story: StoryRow, rows: Mapping[int, TurnRow]) -> Tree:
    children: dict[int | None, list[int]] = defaultdict(list)
    for row in rows.values():
        children[row.parent_id].append(row.id)
    on_path, step = set(), story.tip_id
    while step is not None:
        on_path.add(step)
        step = rows[step].parent_id
    nodes = tuple(
        Node(
            id=number,
            parent=rows[number].parent_id,
            turn=turn_of(rows[number]),
            children=tuple(children.get(number, ())),
            created=rows[number].created,
            on_path=number in on_path,
            words=count_words(rows[number].text),
        )
        for number in depth_first(children)
    )
    steps = [step_to(session, story, undone) for undone in (False, True)]
    undo, redo = (step.name if step else None for step in steps)
    prompt = Prompt.model_validate(story.prompt)
    return Tree(story.id, story.title, prompt, story.version, story.tip_id, nodes, undo, redo)


def count_words(text: str) -> int:
    """Words of a turn's text, as white space parts them."""
    return len(text.split())


def finish(session: Session, story: StoryRow) -> Tree:
    """Raise the version after a change and count anew."""
    story.version += 1
    story.updated = now()
    tree = read_tree(session, story)
    story.turn_count, story.word_count = len(tree.path), sum(node.words for node in tree.path)
    return tree


class Change:
    """A change of a story under way: writes rows, and remembers what they held.

    `before` is the tree as it was, `result` the tree after the change.
    """

    def __init__(self, session: Session, story: StoryRow, name: str):
        self.session, self.story, self.name = session, story, name
        self._rows = {row.id: row for row in _turn_rows(session, story) if not row.removed}
        self.before = self.result = _tree(session, story, self._rows)
        self._touched: dict[tuple[str, int | str], dict[str, tuple[Any, Any]]] = defaultdict(dict)

    def row(self, node_id: int) -> TurnRow:
        """The row of a block of this story.

        Raises:
            InputError: the story has no such block.
        """
        return self._rows[self.before.node(node_id).id]

    def set(self, row: StoryRow | TurnRow | CandidateRow, **values: Any) -> None:
        """Write values into a row."""
        touched = self._touched[row.__tablename__, row.id]
        for name, value in values.items():
            first = touched[name][0] if name in touched else getattr(row, name)
            touched[name] = (first, value)
            setattr(row, name, value)

    def set_prompt(self, prompt: Prompt) -> None:
        """Write the story's prompt."""
        self.set(self.story, prompt=prompt.model_dump(mode="json"))

    def set_tip(self, node_id: int | None) -> None:
        """Let the current path end at a block."""
        self.set(self.story, tip_id=node_id)

    def add(self, turns: Iterable[Turn], after: int | None) -> int | None:
        """Add turns, one after the other, below a block; returns the last one's id (of no turns: `after`)."""
        for turn in turns:
            row = TurnRow(story_id=self.story.id, parent_id=after, removed=False, **columns_of(turn))
            self.session.add(row)
            self.session.flush()
            self._rows[row.id] = row
            self._touched["turns", row.id]["removed"] = (True, False)
            after = row.id
        return after

    def record(self) -> Tree:
        """Log the step and finish it; a step that changed nothing leaves the story at its version."""
        changes = [_difference(*key, fields) for key, fields in self._touched.items()]
        changes = [change for change in changes if change[2] != change[3]]
        if not changes:
            return self.before
        mine = OperationRow.story_id == self.story.id
        self.session.execute(sa.delete(OperationRow).where(mine, OperationRow.undone))
        self.session.add(OperationRow(story_id=self.story.id, name=self.name, changes=changes))
        self.session.flush()
        latest = sa.select(OperationRow.id).where(mine).order_by(OperationRow.id.desc())
        too_old = self.session.scalar(latest.offset(UNDO_STEPS).limit(1))
        if too_old is not None:
            self.session.execute(sa.delete(OperationRow).where(mine, OperationRow.id <= too_old))
        return finish(self.session, self.story)


def _difference(table: str, row_id: int | str, fields: dict[str, tuple[Any, Any]]) -> list[Any]:
    """A row's part of a log entry. Of a prompt only the fields that differ are kept: its lore may be long."""
    before: dict[str, Any] = {}
    after: dict[str, Any] = {}
    for name, (old, new) in fields.items():
        if name == "prompt":
            old, new = _all_fields(old), _all_fields(new)
            differs = [key for key in new if old[key] != new[key]]
            old, new = ({key: prompt[key] for key in differs} for prompt in (old, new))
        if old != new:
            before[name], after[name] = old, new
    return [table, row_id, before, after]


def _all_fields(stored: dict[str, Any]) -> dict[str, Any]:
    """A stored prompt with those of its fields, too, that are left out where they are not set (note, lore)."""
    prompt = Prompt.model_validate(stored)
    return {name: to_jsonable_python(getattr(prompt, name)) for name in Prompt.model_fields}


def step_to(session: Session, story: StoryRow, undone: bool) -> OperationRow | None:
    """The step that undo would take back (the latest that is done), or redo do again (the first that is undone)."""
    number = sa.func.min(OperationRow.id) if undone else sa.func.max(OperationRow.id)
    mine = OperationRow.story_id == story.id, OperationRow.undone.is_(undone)
    return session.scalar(
        sa.select(OperationRow).where(OperationRow.id == sa.select(number).where(*mine).scalar_subquery())
    )


def retrace(session: Session, story: StoryRow, undone: bool) -> Tree:
    """Undo the latest step, or (undone) redo the first undone one.

    Raises:
        InputError: there is no such step.
    """
    step = step_to(session, story, undone)
    if step is None:
        raise InputError(f"story '{story.title[:60]}': there is nothing to {'redo' if undone else 'undo'}")
    step.undone = not undone
    rows: dict[tuple[str, int | str], Any] = {("turns", row.id): row for row in _turn_rows(session, story)}
    rows["stories", story.id] = story
    for table, row_id, before, after in step.changes:
        row: Any = rows.get((table, row_id)) or session.get(CandidateRow, row_id)
        if row is not None:  # candidates may have been deleted since
            for name, value in (after if undone else before).items():
                setattr(row, name, {**row.prompt, **value} if name == "prompt" else value)
    return finish(session, story)
