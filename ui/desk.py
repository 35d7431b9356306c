"""The writing desk on the store: what each button of the page does to a story. No gradio, no model, no HTML.

A change is written with the version of the story that the window shows, so a window that is behind changes nothing.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from storyrl.errors import InputError, first_problem
from storyrl.store import Round, Store, Tree
from storyrl.story import LoreEntry, Story
from ui import session as steps
from ui.session import Place, Rewriting, Weights

Fields = Mapping[str, Any]
"""What a form or a button of the page sent along; anything can be in it."""


@dataclass(frozen=True)
class Look:
    """An open story as it is in the store, with the suggestions for its next turn (the latest round first)."""

    place: Place
    tree: Tree
    rounds: tuple[Round, ...]
    versions: Mapping[int, tuple[Round, ...]]
    """Of the block that is open and of the one that is being rewritten: versions of its passages, the latest first."""

    def versions_of(self, block: int | None) -> int:
        """How many versions a block has that were listed."""
        return sum(len(each.candidates) for each in self.versions.get(block or 0, ()))

    @property
    def round(self) -> Round | None:
        """The round that is shown."""
        return next((each for each in self.rounds if each.id == self.place.round), next(iter(self.rounds), None))


class Desk:
    """One owner's stories, and the steps by their names."""

    def __init__(self, store: Store):
        self.store = store
        self.steps: dict[str, Callable[[Place, Fields], Place]] = {
            "choose": lambda place, f: place.at(chosen=_number(f, "block")),
            "close": lambda place, _: place.at(chosen=None),
            "save": self._save,
            "insert": self._insert,
            "delete": self._delete,
            "go": self._go,
            "branch": self._branch,
            "compare": lambda place, f: place.at(compare=_number(f, "block")),
            "apart": lambda place, _: place.at(compare=None),
            "pick": self._pick,
            "take": lambda place, f: place.at(draft=_number(f, "candidate")),
            "discard": lambda place, _: place.at(draft=None),
            "round": lambda place, f: place.at(round=_number(f, "round")),
            "weights": _weigh,
            "rewrite": self._rewrite,
            "version": lambda place, f: _turn_page(place, _number(f, "round")),
            "versions": self._versions,
            "keep": lambda place, _: place.at(rewriting=None),
            "replace": self._replace,
            "add": self._add,
            "prompt": self._set_prompt,
            "lore": self._set_lore,
            "unlore": self._drop_lore,
            "undo": lambda place, _: self._done(place, self.store.undo(_open(place), place.version)),
            "redo": lambda place, _: self._done(place, self.store.redo(_open(place), place.version)),
        }

    def do(self, place: Place, name: str, fields: Fields) -> Place:
        """Take a step; returns where the writer is then.

        Raises:
            InputError: no such step, bad fields, or no story is open.
            Stale: another window changed the story since.
        """
        if name not in self.steps:
            raise InputError(f"no such step: {str(name)[:40]}")
        return self.steps[name](place, fields)

    def start(self, story: Story, place: Place) -> Place:
        """Put a new story into the store and open it."""
        return Place(story=story.id, version=self.store.save_story(story).version, weights=place.weights)

    def open(self, story_id: str, place: Place) -> Place:
        """Open a story.

        Raises:
            InputError: there is no such story.
        """
        return Place(story=story_id, version=self.store.tree(story_id).version, weights=place.weights)

    def newest(self, place: Place) -> Place:
        """The place in the story as it is now; without the story, a place without one."""
        try:
            return place.at(version=self.store.tree(place.story).version) if place.story else place
        except InputError:
            return Place(weights=place.weights)

    def look(self, place: Place) -> Look:
        """The story as it is now; the place is brought to what is shown.

        Raises:
            InputError: there is no such story.
        """
        tree = self.store.tree(_open(place))
        rounds = tuple(self.store.open_candidates(tree.story_id))
        there, path = {node.id for node in tree.nodes}, {node.id for node in tree.path}
        place = place.at(
            version=tree.version,
            rewriting=place.rewriting if place.rewriting and place.rewriting.block in path else None,
            chosen=place.chosen if place.chosen in there else None,
            compare=place.compare if place.compare in there else None,
            round=place.round if place.round in {each.id for each in rounds} else None,
        )
        blocks = {place.chosen, place.rewriting.block if place.rewriting else None} & path
        return Look(place, tree, rounds, {block: self._kept(tree, block) for block in blocks if block is not None})

    def _kept(self, tree: Tree, block: int) -> tuple[Round, ...]:
        node = tree.node(block)
        return steps.versions_of(self.store.open_candidates(tree.story_id, node.parent), node.turn)

    # --- steps --------------------------------------------------------------------------------------------------------

    def _done(self, place: Place, tree: Tree, **changes: object) -> Place:
        return place.at(version=tree.version, **changes)

    def _save(self, place: Place, f: Fields) -> Place:
        story, block = _open(place), _number(f, "block")
        turn = steps.edited(self.store.tree(story).node(block).turn, *_turn_fields(f))
        return self._done(place, self.store.edit(story, block, turn, place.version), chosen=None)

    def _insert(self, place: Place, f: Fields) -> Place:
        turn = steps.turn_of(*_turn_fields(f))
        after = _number(f, "after") if f.get("after") else None
        return self._done(place, self.store.insert(_open(place), [turn], place.version, after), chosen=None)

    def _delete(self, place: Place, f: Fields) -> Place:
        block, following = _number(f, "block"), f.get("following") == "yes"
        return self._done(place, self.store.delete(_open(place), block, place.version, following), chosen=None)

    def _branch(self, place: Place, f: Fields) -> Place:
        """Go back to a block: what the writer or the model adds next begins another branch."""
        tree = self.store.switch(_open(place), _number(f, "block"), place.version)
        return self._done(place, tree, chosen=None, round=None)

    def _go(self, place: Place, f: Fields) -> Place:
        """Go to the branch that a block is on, to its end."""
        story = _open(place)
        end = self.store.tree(story).end(_number(f, "block"))
        return self._done(place, self.store.switch(story, end, place.version), chosen=None, compare=None, round=None)

    def _pick(self, place: Place, f: Fields) -> Place:
        tree = self.store.pick(_open(place), _number(f, "candidate"), place.version)
        return self._done(place, tree, round=None)

    def _add(self, place: Place, f: Fields) -> Place:
        """The writer's own turn; it may have started from a candidate."""
        story = _open(place)
        shown = [c for each in self.store.open_candidates(story) for c in each.candidates if c.id == place.draft]
        if shown and place.draft is not None:
            turn = steps.edited(shown[0].turn, *_turn_fields(f))
            tree = self.store.pick(story, place.draft, place.version, turn)
        else:
            turn = steps.turn_of(*_turn_fields(f), author="edited" if place.draft is not None else "writer")
            tree = self.store.append(story, [turn], place.version)
        return self._done(place, tree, draft=None, round=None)

    def _rewrite(self, place: Place, f: Fields) -> Place:
        """Put a passage on the table; what the model makes of it comes there (ui/rewriting.py)."""
        tree = self.store.tree(_open(place))
        where = _number(f, "block"), _number(f, "start"), _number(f, "end")
        return place.at(rewriting=steps.select(tree, *where, str(f.get("seen")), str(f.get("hint") or "")))

    def _versions(self, place: Place, f: Fields) -> Place:
        """Show the versions that a block has."""
        node = self.store.tree(_open(place)).node(_number(f, "block"))
        return place.at(rewriting=Rewriting(block=node.id, start=0, end=len(node.turn.text)))

    def _replace(self, place: Place, f: Fields) -> Place:
        """Put a version into the story."""
        story, block, number = _open(place), _number(f, "block"), _number(f, "candidate")
        tree = self.store.tree(story)
        turn = tree.node(block).turn
        if number in (c.id for each in self._kept(tree, block) for c in each.candidates):
            return self._done(place, self.store.replace(story, block, number, place.version), rewriting=None)
        raise InputError(f"This is no version of '{turn.text[:40]}' any more: the block was changed. Ask for new ones.")

    def _set_prompt(self, place: Place, f: Fields) -> Place:
        known = ("premise", "goal", "characters", "memory", "style", "note", "note_depth")
        fields = {name: f[name] for name in known if name in f}
        story = _open(place)
        prompt = steps.changed_prompt(self.store.tree(story).prompt, **fields)
        return self._done(place, self.store.set_prompt(story, prompt, place.version))

    def _set_lore(self, place: Place, f: Fields) -> Place:
        """Write the lore entry at a position, or add one at the end."""
        keys = [key.strip() for key in str(f.get("keys", "")).split(",") if key.strip()]
        fields = {"name": f.get("name", ""), "text": f.get("text", ""), "keys": keys}
        if not str(fields["text"]).strip():
            raise InputError("Please write what the lore entry tells the model.")
        if not keys and f.get("always") is not True:
            raise InputError("Please give the lore entry a key, or let it always be read.")
        flags = {"always": f.get("always") is True, "enabled": f.get("enabled") is not False}
        try:
            entry = LoreEntry.model_validate({**fields, **flags})
        except ValidationError as error:
            raise InputError(f"lore: {first_problem(error)}") from error
        return self._lore(place, f, [entry])

    def _drop_lore(self, place: Place, f: Fields) -> Place:
        return self._lore(place, f, [])

    def _lore(self, place: Place, f: Fields, instead: list[LoreEntry]) -> Place:
        story = _open(place)
        prompt = self.store.tree(story).prompt
        at = _number(f, "entry") if f.get("entry") else len(prompt.lore)
        if not 0 <= at <= len(prompt.lore):
            raise InputError("the story has no such lore entry (any more); reload the page")
        lore = (*prompt.lore[:at], *instead, *prompt.lore[at + 1 :])
        return self._done(place, self.store.set_prompt(story, steps.changed_prompt(prompt, lore=lore), place.version))


def _open(place: Place) -> str:
    if place.story is None:
        raise InputError("No story is open; start one, or choose one from the library.")
    return place.story


def _number(fields: Fields, name: str) -> int:
    try:
        return int(str(fields[name])[:18])
    except (KeyError, ValueError) as error:
        raise InputError(f"{name}: expected a number; reload the page") from error


def _turn_page(place: Place, number: int) -> Place:
    """Show another round of versions."""
    return place.at(rewriting=place.rewriting and place.rewriting.model_copy(update={"round": number}))


def _turn_fields(f: Fields) -> tuple[str, str, str]:
    kind, actor, text = (str(f.get(name) or "") for name in ("kind", "actor", "text"))
    return kind, actor, text


def _weigh(place: Place, f: Fields) -> Place:
    try:
        return place.at(weights=Weights.model_validate({name: f[name] for name in Weights.model_fields if name in f}))
    except ValidationError as error:
        raise InputError(first_problem(error)) from error
