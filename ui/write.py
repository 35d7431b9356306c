"""The Write tab: a story, suggestions for its next turn, and the writer's own turns."""

import contextlib
import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gradio as gr

from storyrl.agent import Agent
from storyrl.errors import InputError
from storyrl.store import Store
from storyrl.story import Kind
from ui import session as steps
from ui.session import Session

MODEL_QUEUE = "model"  # one thing at a time runs the model
_MOST = 8
_KINDS = [("Narrate", Kind.NARRATE.value), ("Say", Kind.SAY.value), ("Do", Kind.DO.value)]
_TO_EDITOR = "() => document.querySelector('#own-text textarea').focus()"
_CHANGED = "This story was changed in another window; reload the page to go on from there."


class WriteTab:
    """Components and handlers of the tab. `story_id` is the browser's memory of the open story.

    The store is the truth: a step is saved before it is shown, and only if the store still holds what was shown.
    """

    def __init__(self, agent: Agent, store: Store, story_id: gr.BrowserState):
        self.agent, self.store, self.story_id = agent, store, story_id
        self.session = gr.State(None)
        with gr.Column(elem_id="shelf"):
            with gr.Row(elem_id="shelf-row"):
                self.saved = gr.Dropdown(
                    choices=self._titles(),
                    label="My stories (saved as you write)",
                    elem_id="saved",
                    scale=4,
                )
                self.new = gr.Button("New story", elem_id="new-story", visible=False, scale=1, min_width=120)
            with gr.Column() as self.form:
                self._story_form()
        with gr.Column(visible=False, elem_id="desk") as self.desk:  # a grid: see studio.css
            with gr.Column(elem_id="paper"):
                self.paper = gr.HTML()
            with gr.Column(elem_id="table"):
                self._suggestions()
            with gr.Column(elem_id="own"):
                self._own_turn()
        self._wire()

    def _story_form(self) -> None:
        self.premise = gr.Textbox(
            label="Premise", lines=3, placeholder="Who, where, what is at stake", elem_id="premise", max_length=4000
        )
        self.goal = gr.Textbox(
            label="Goal", placeholder="An event, such as: Mira forgives her brother.", elem_id="goal", max_length=4000
        )
        self.characters = gr.Textbox(label="Characters", placeholder="Mira, Tom", elem_id="characters", max_length=2000)
        with gr.Accordion("Memory and style", open=False):
            self.memory = gr.Textbox(label="Memory", info="Facts the model always sees", lines=2, max_length=4000)
            self.style = gr.Textbox(label="Style", placeholder="plain, first person", max_length=4000)
        self.begin = gr.Button("Start story", variant="primary", elem_id="start")

    def _suggestions(self) -> None:
        with gr.Row(elem_id="ask"):
            self.count = gr.Slider(
                1, _MOST, value=3, step=1, label="How many", buttons=[], min_width=140, scale=2, elem_id="count"
            )
            self.suggest = gr.Button("Suggest", variant="primary", elem_id="suggest", min_width=120, scale=1)
        self.status = gr.HTML(elem_id="write-status")
        self.cards = [self._card(number) for number in range(_MOST)]

    def _card(self, number: int) -> tuple[gr.Column, gr.HTML, gr.Button, gr.Button]:
        with gr.Column(visible=False, elem_classes="suggestion") as column:
            html = gr.HTML()
            with gr.Row():
                pick = gr.Button("Pick", size="sm", variant="primary", elem_id=f"pick-{number}", min_width=80)
                edit = gr.Button("Edit", size="sm", elem_id=f"edit-{number}", min_width=80)
        return column, html, pick, edit

    def _own_turn(self) -> None:
        with gr.Row():
            self.kind = gr.Radio(_KINDS, value=Kind.NARRATE.value, label="Your turn", min_width=230, elem_id="own-kind")
            self.actor = gr.Textbox(label="Who", visible=False, min_width=120, elem_id="own-actor", max_length=60)
        self.text = gr.Textbox(label="Text (Ctrl+Enter adds it)", lines=3, elem_id="own-text", max_length=20_000)
        with gr.Row():
            self.add = gr.Button("Add my turn", elem_id="add-turn", min_width=110)
            self.discard = gr.Button("Clear", elem_id="discard", min_width=80)
            self.undo = gr.Button("Undo last turn", elem_id="undo", min_width=130)

    # --- what happens ---------------------------------------------------------------------------------------------

    def _wire(self) -> None:
        where = [self.session, self.story_id]
        form = [self.premise, self.goal, self.characters, self.memory, self.style]
        own = [self.kind, self.actor, self.text]
        self._on(self.begin.click, self._start, form, form)
        self._on(self.new.click, self._new, [])
        self._on(self.saved.input, self.restore, [self.saved])
        self._on(self.suggest.click, self._suggest, [*where, self.count], queue=MODEL_QUEUE)
        self._on(self.add.click, self._add, [*where, *own], own)
        self._on(self.text.submit, self._add, [*where, *own], own)
        self._on(self.discard.click, self._discard, where, own)
        self._on(self.undo.click, self._undo, where)
        for number, (_, _, pick, edit) in enumerate(self.cards):
            self._on(pick.click, self._picker(number), where)
            edited = self._on(edit.click, self._editor(number), where, own)
            edited.success(None, js=_TO_EDITOR, api_visibility="private")
        self.kind.change(_who, [self.kind], [self.actor], show_progress="hidden", api_visibility="private")

    def _on(
        self, event: Any, step: Callable[..., Any], inputs: list[Any], also: Sequence[Any] = (), queue: str = "step"
    ) -> Any:
        """Wire a step; the steps of one queue run one after the other, so each sees what the one before left."""
        return event(
            step,
            inputs,
            [*self._outputs(), *also],
            concurrency_id=queue,
            concurrency_limit=1,
            trigger_mode="once",
            show_progress="hidden",
            api_visibility="private",
        )

    def _outputs(self) -> list[Any]:
        parts = [part for column, html, _, _ in self.cards for part in (column, html)]
        locked = [self.suggest, self.add, self.undo, self.new, self.saved]
        return [self.session, self.story_id, self.form, self.desk, self.paper, self.status, *locked, *parts]

    def _view(self, session: Session | None, busy: str = "") -> list[Any]:
        """New values for all of `_outputs`; while `busy`, nothing that would change the story can be pressed."""
        writing = session is not None
        free = gr.update(interactive=not busy)
        cards: list[Any] = []
        for number in range(_MOST):
            there = session is not None and number < len(session.suggestions) and not busy
            html = ""
            if session and there:
                html = steps.card(session.suggestions[number], bool(session.story.prompt.goal))
            cards += [gr.update(visible=there), html]
        hint = (
            "Bars: goal: how likely it has happened by then; taste: how many of the model's usual stories score lower; "
            "clean: how free of faults."
            if session and session.suggestions
            else ""
        )
        return [
            session,
            session.story.id if session else None,
            gr.update(visible=not writing),
            gr.update(visible=writing),
            steps.manuscript(session) if session else "",
            steps.status(busy or hint, busy=bool(busy)),
            free,
            free,
            gr.update(interactive=not busy and session is not None and bool(session.story.turns)),
            gr.update(visible=writing, interactive=not busy),
            self._shelf(session, locked=bool(busy)),
            *cards,
        ]

    def _shelf(self, session: Session | None, locked: bool) -> Any:
        titles, value = self._titles(), session.story.id if session else None
        return gr.update(choices=titles, value=value, interactive=not locked, visible=bool(titles))

    def _titles(self) -> list[tuple[str, str]]:
        return [
            (f"{info.title} ({info.turns} {'turn' if info.turns == 1 else 'turns'})", info.id)
            for info in self.store.list_stories()
        ]

    def _now(self, session: Session | None, story_id: object) -> Session:
        """The open session; after a restart of the server, what the store holds of it."""
        if session is None and isinstance(story_id, str):
            story = self.store.load_story(story_id)
            session = Session(story) if story else None
        if session is None:
            raise InputError("No story is open; start one, or choose one of yours.")
        return session

    def _saved(self, before: Session, after: Session) -> list[Any]:
        """Save a step and show it.

        Raises:
            InputError: another window has changed the story since; nothing is saved then.
        """
        if self.store.load_story(before.story.id) != before.story:
            raise InputError(_CHANGED)
        self.store.save_story(after.story)
        return self._view(after)

    def connect_reload(self, page: gr.Blocks) -> None:
        """Bring the open story back whenever the page loads."""
        self._on(page.load, self.restore, [self.story_id])

    def restore(self, story_id: object) -> list[Any]:
        """Show a story of the store; without one, the form for a new one."""
        with friendly():
            story = self.store.load_story(story_id) if isinstance(story_id, str) else None
            return self._view(Session(story) if story else None)

    def _start(self, premise: str, goal: str, characters: str, memory: str, style: str) -> list[Any]:
        with friendly():
            session = steps.start(premise, goal, characters, memory, style)
            self.store.save_story(session.story)
            return [*self._view(session), "", "", "", "", ""]

    def _new(self) -> list[Any]:
        with friendly():
            return self._view(None)

    def _suggest(self, session: Session | None, story_id: object, count: int) -> Iterator[list[Any]]:
        with friendly():
            session = self._now(session, story_id)
            yield self._view(session, busy=f"Writing {int(count)} suggestions ..." if count > 1 else "Writing ...")
            try:
                suggestions = tuple(self.agent.suggest(session.story, int(count), secrets.randbits(31)))
                if self.store.load_story(session.story.id) != session.story:
                    raise InputError(_CHANGED)
                after = Session(session.story, suggestions, session.editing)
                self.store.set_candidates(after.story.id, len(after.story.turns), steps.shown(after))
            except Exception:
                yield self._view(session)  # the buttons must not stay locked
                raise
            yield self._view(after)

    def _add(self, session: Session | None, story_id: object, kind: str, actor: str, text: str) -> list[Any]:
        with friendly():
            session = self._now(session, story_id)
            after = steps.add_turn(session, kind, actor, text)
            return [*self._saved(session, after), gr.update(), gr.update(), ""]

    def _discard(self, session: Session | None, story_id: object) -> list[Any]:
        with friendly():
            session = steps.discard(self._now(session, story_id))
            return [*self._view(session), gr.update(), gr.update(), ""]

    def _undo(self, session: Session | None, story_id: object) -> list[Any]:
        with friendly():
            session = self._now(session, story_id)
            return self._saved(session, steps.undo(session))

    def _picker(self, number: int) -> Callable[..., list[Any]]:
        def pick(session: Session | None, story_id: object) -> list[Any]:
            with friendly():
                session = self._now(session, story_id)
                view = self._saved(session, steps.pick(session, number))
                position = len(session.story.turns)
                self.store.set_candidates(session.story.id, position, steps.shown(session, picked=number))
                return view

        return pick

    def _editor(self, number: int) -> Callable[..., list[Any]]:
        def edit(session: Session | None, story_id: object) -> list[Any]:
            with friendly():
                session = steps.edit(self._now(session, story_id), number)
                turn = session.suggestions[number].turn
                return [*self._view(session), turn.kind.value, turn.actor or "", turn.text]

        return edit


def _who(kind: str) -> Any:
    """Narration has nobody who speaks or acts."""
    return gr.update(visible=kind != Kind.NARRATE)


@contextlib.contextmanager
def friendly() -> Iterator[None]:
    """Shows an InputError as a message on the page."""
    try:
        yield
    except InputError as error:
        raise gr.Error(str(error), print_exception=False) from error
