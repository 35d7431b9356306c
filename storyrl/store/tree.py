"""A story as a tree of turns, with one path that is the story at present. Plain data; no database."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from storyrl.errors import InputError
from storyrl.story import Prompt, Story, Turn


@dataclass(frozen=True)
class Node:
    """A turn in its place. Without a parent it begins the story; children are in the order in which they came."""

    id: int
    parent: int | None
    turn: Turn
    children: tuple[int, ...]
    created: datetime
    on_path: bool
    words: int


@dataclass(frozen=True)
class Fork:
    """Two paths: what they share, and how each goes on."""

    common: tuple[Node, ...]
    first: tuple[Node, ...]
    second: tuple[Node, ...]


@dataclass(frozen=True)
class Tree:
    """A story with all its branches, at one version. Blocks come depth first, older branches before younger ones.

    `tip` is the last block of the current path (None: the path is empty); `undo` and `redo` name the step that would be
    taken back or done again (None: there is none).
    """

    story_id: str
    title: str
    prompt: Prompt
    version: int
    tip: int | None
    nodes: tuple[Node, ...]
    undo: str | None
    redo: str | None

    @cached_property
    def _by_id(self) -> dict[int, Node]:
        return {node.id: node for node in self.nodes}

    def node(self, node_id: int) -> Node:
        """The block of that id.

        Raises:
            InputError: the story has no such block.
        """
        if node_id not in self._by_id:
            raise InputError(f"block {str(node_id)[:20]}: the story has no such block (any more); reload it")
        return self._by_id[node_id]

    def path_to(self, node_id: int | None) -> tuple[Node, ...]:
        """The blocks from the beginning to this one; of None, no block.

        Raises:
            InputError: the story has no such block.
        """
        path = []
        while node_id is not None:
            path.append(self.node(node_id))
            node_id = path[-1].parent
        return tuple(reversed(path))

    @cached_property
    def path(self) -> tuple[Node, ...]:
        """The current path."""
        return self.path_to(self.tip)

    @cached_property
    def story(self) -> Story:
        """The story that the current path tells."""
        return Story(id=self.story_id, prompt=self.prompt, turns=tuple(node.turn for node in self.path))

    def following(self, node_id: int | None) -> tuple[int, ...]:
        """Ids of the blocks right after a block, or (None) of those that begin the story.

        Raises:
            InputError: the story has no such block.
        """
        if node_id is not None:
            return self.node(node_id).children
        return tuple(node.id for node in self.nodes if node.parent is None)

    def end(self, node_id: int) -> int:
        """Where the story ends when one reads on from a block: along the current path, else the youngest branch.

        Raises:
            InputError: the story has no such block.
        """
        while children := self.node(node_id).children:
            node_id = next((child for child in children if self.node(child).on_path), children[-1])
        return node_id

    def compare(self, node_a: int, node_b: int) -> Fork:
        """The paths to two blocks, side by side.

        Raises:
            InputError: the story has no such block.
        """
        first, second = self.path_to(node_a), self.path_to(node_b)
        shared = sum(a.id == b.id for a, b in zip(first, second, strict=False))
        return Fork(first[:shared], first[shared:], second[shared:])


def depth_first(children: Mapping[int | None, Sequence[int]]) -> list[int]:
    """Ids of a forest in reading order; `children` of None are where it begins."""
    order, waiting = [], list(reversed(children.get(None, ())))
    while waiting:
        order.append(waiting.pop())
        waiting.extend(reversed(children.get(order[-1], ())))
    return order
