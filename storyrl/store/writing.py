"""The store's stories, as they are written: read as a tree, changed block by block, undone and redone.

Every change takes the version of the story that the caller saw, and returns the tree as it is afterwards.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Literal

from sqlalchemy.orm import Session

from storyrl.errors import InputError
from storyrl.store.changes import Change, finish, read_tree, retrace
from storyrl.store.database import Database, alive
from storyrl.store.tables import CandidateRow, RoundRow, StoryRow, columns_of, turn_of
from storyrl.store.tree import Tree
from storyrl.story import Prompt, Story, Turn

Place = int | None | Literal["tip"]
"""After which block: its id, None for the beginning, or the end of the current path."""


class Writing(Database):
    """Stories and their blocks.

    Raises:
        InputError: (from every method that takes a story's id) the owner has no such story, or it was deleted.
        Stale: (from every method that takes `expected_version`) another window changed the story meanwhile.
    """

    def tree(self, story_id: str) -> Tree:
        """A story with all its branches."""
        with self._reading() as session:
            return read_tree(session, alive(self._find(session, story_id), story_id))

    def load_story(self, story_id: str) -> Story | None:
        """The current path of a story, or None if there is no such story."""
        with self._reading() as session:
            row = self._find(session, story_id)
            return read_tree(session, row).story if row is not None and row.deleted is None else None

    def save_story(self, story: Story, title: str = "", expected_version: int | None = None) -> Tree:
        """Insert or update a story; its current path becomes exactly `story.turns`. An empty title keeps the old one.

        What the path held before stays as a branch, and blocks that are there already are used again. Without
        `expected_version` whatever another window wrote meanwhile becomes a branch, too.
        """
        with self._writing() as session:
            row = self._find(session, story.id, lock=True)
            if row is None and expected_version is None:
                return self._create(session, story, title)
            change = Change(session, alive(row, story.id, expected_version), "save")
            change.set(change.story, title=title or change.story.title)
            change.set_prompt(story.prompt)
            change.set_tip(_walk(change, story.turns))
            return change.record()

    def append(self, story_id: str, turns: Sequence[Turn], expected_version: int, after: Place = "tip") -> Tree:
        """Go on with the story after a block; what followed there before stays as another branch."""
        with self._change(story_id, expected_version, "append") as change:
            change.set_tip(change.add(turns, place_of(change.before, after)))
        return change.result

    def pick(self, story_id: str, candidate_id: int, expected_version: int, turn: Turn | None = None) -> Tree:
        """Go on with a shown candidate, or with what the writer made of it (`turn`), where it was shown.

        Raises:
            InputError: no such candidate was shown for this story, or the block before it is gone.
        """
        with self._change(story_id, expected_version, "pick") as change:
            candidate, shown = _shown(change, candidate_id)
            after = place_of(change.before, shown.after_id)
            block = change.add([turn or turn_of(candidate)], after)
            change.set(candidate, picked=True, turn_id=block)
            change.set_tip(block)
        return change.result

    def insert(self, story_id: str, turns: Sequence[Turn], expected_version: int, after: int | None) -> Tree:
        """Put turns between a block of the current path (None: the beginning) and what follows it there.

        Raises:
            InputError: the block is not on the current path.
        """
        with self._change(story_id, expected_version, "insert") as change:
            path: list[int | None] = [None, *(node.id for node in change.before.path)]
            if after not in path:
                raise InputError("turns can be inserted into the current path only; switch to this branch first")
            last = change.add(turns, after)
            following = path[path.index(after) + 1 :]
            if following and following[0] is not None:
                change.set(change.row(following[0]), parent_id=last)
            else:
                change.set_tip(last)
        return change.result

    def edit(self, story_id: str, node_id: int, turn: Turn, expected_version: int) -> Tree:
        """Replace a block where it stands; what follows stays."""
        with self._change(story_id, expected_version, "edit") as change:
            change.set(change.row(node_id), **columns_of(turn))
        return change.result

    def replace(self, story_id: str, node_id: int, candidate_id: int, expected_version: int) -> Tree:
        """Put a candidate that was shown for a block's place into this block, as if picked; what follows stays.

        Raises:
            InputError: no such candidate was shown for this story and place, or the block is gone.
        """
        with self._change(story_id, expected_version, "edit") as change:
            candidate, shown = _shown(change, candidate_id)
            if shown.after_id != change.before.node(node_id).parent:
                raise _gone()
            change.set(change.row(node_id), **columns_of(turn_of(candidate).model_copy(update={"author": "edited"})))
            change.set(candidate, picked=True, turn_id=node_id)
        return change.result

    def delete(self, story_id: str, node_id: int, expected_version: int, with_following: bool = False) -> Tree:
        """Take a block out; what follows moves up to the block before it, or (`with_following`) goes with it."""
        with self._change(story_id, expected_version, "delete") as change:
            gone, parent = change.before.node(node_id), change.before.node(node_id).parent
            if with_following:
                ids = [gone.id]
                for number in ids:  # grows as it is read
                    ids += change.before.node(number).children
                for number in ids:
                    change.set(change.row(number), removed=True)
            else:
                ids = [gone.id]
                change.set(change.row(gone.id), removed=True)
                for number in gone.children:
                    change.set(change.row(number), parent_id=parent)
            if change.before.tip in ids:
                change.set_tip(parent)
        return change.result

    def switch(self, story_id: str, node_id: int | None, expected_version: int) -> Tree:
        """Let the current path end at a block (None: before the first), on whatever branch. See `Tree.end`."""
        with self._change(story_id, expected_version, "switch") as change:
            change.set_tip(place_of(change.before, node_id))
        return change.result

    def set_prompt(self, story_id: str, prompt: Prompt, expected_version: int) -> Tree:
        """Change what the story starts from: its goal, memory, characters and so on."""
        with self._change(story_id, expected_version, "prompt") as change:
            change.set_prompt(prompt)
        return change.result

    def undo(self, story_id: str, expected_version: int) -> Tree:
        """Take the latest step back.

        Raises:
            InputError: there is no step to undo.
        """
        with self._locked(story_id, expected_version) as (session, story):
            return retrace(session, story, undone=False)

    def redo(self, story_id: str, expected_version: int) -> Tree:
        """Do the step again that was undone last.

        Raises:
            InputError: there is no step to redo; every new change drops those that were undone.
        """
        with self._locked(story_id, expected_version) as (session, story):
            return retrace(session, story, undone=True)

    @contextlib.contextmanager
    def _change(self, story_id: str, expected_version: int, name: str) -> Iterator[Change]:
        """A change that is recorded when the block ends well; its `result` is the tree afterwards."""
        with self._locked(story_id, expected_version) as (session, story):
            change = Change(session, story, name)
            yield change
            change.result = change.record()

    def _create(self, session: Session, story: Story, title: str) -> Tree:
        row = StoryRow(id=story.id, owner=self._me, version=0, title=title or _title(story.prompt), tip_id=None)
        row.prompt = story.prompt.model_dump(mode="json")
        session.add(row)
        session.flush()
        row.tip_id = Change(session, row, "new").add(story.turns, None)
        return finish(session, row)


def place_of(tree: Tree, place: Place) -> int | None:
    """The block that a place means (None: the beginning).

    Raises:
        InputError: the story has no such block.
    """
    if place == "tip":
        return tree.tip
    return tree.node(place).id if place is not None else None


def _shown(change: Change, candidate_id: int) -> tuple[CandidateRow, RoundRow]:
    """A candidate that was shown for the story, and its round."""
    candidate = change.session.get(CandidateRow, candidate_id)
    shown = change.session.get(RoundRow, candidate.round_id) if candidate else None
    if candidate is None or shown is None or shown.story_id != change.story.id:
        raise _gone()
    return candidate, shown


def _gone() -> InputError:
    return InputError("this suggestion is no longer here; ask for new ones")


def _walk(change: Change, turns: Sequence[Turn]) -> int | None:
    """Go along turns from the beginning, on blocks that hold them already, and add the rest; the last block's id."""
    tree, at = change.before, None
    for number, turn in enumerate(turns):
        same = [child for child in tree.following(at) if tree.node(child).turn == turn]
        if not same:
            return change.add(turns[number:], at)
        at = next((child for child in same if tree.node(child).on_path), same[-1])
    return at


def _title(prompt: Prompt) -> str:
    words = prompt.premise.split()
    return " ".join(words[:8]).rstrip(".,;:") + "..." if len(words) > 8 else prompt.premise
