"""The Write tab: a story, suggestions for its next turn, and the writer's own turns."""

import contextlib
import secrets
from collections.abc import Iterator
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


class WriteTab:
    """Components and handlers of the tab. `story_id` is the browser's memory of the open story."""

    def __init__(self, agent: Agent, store: Store, story_id: gr.BrowserState):
        self.agent, self.store, self.story_id = agent, store, story_id
        self.session = gr.State(None)
        with gr.Row():
            with gr.Column(scale=3, min_width=300):
                self.paper = gr.HTML(steps.manuscript(None))
                with gr.Group(visible=False) as self.own:
                    with gr.Row():
                        kinds = [kind.value for kind in Kind]
                        self.kind = gr.Radio(kinds, value="narrate", label="Your turn", min_width=220)
                        self.actor = gr.Textbox(label="Who", placeholder="Mira", scale=1, min_width=120)
                    self.text = gr.Textbox(label="Text (Shift+Enter adds it)", lines=2, elem_id="own-text")
                    with gr.Row():
                        self.add = gr.Button("Add my turn", elem_id="add-turn")
                        self.undo = gr.Button("Undo last turn", elem_id="undo")
            with gr.Column(scale=2, min_width=300):
                self._story_form()
                with gr.Column(visible=False) as self.table:
                    with gr.Row():
                        self.count = gr.Slider(1, _MOST, value=3, step=1, label="Suggestions", min_width=140)
                        self.suggest = gr.Button("Suggest", variant="primary", elem_id="suggest", min_width=120)
                    self.cards = [self._card(number) for number in range(_MOST)]
        self._wire()

    def _story_form(self) -> None:
        with gr.Accordion("A new story", open=True) as self.form:
            self.premise = gr.Textbox(
                label="Premise", lines=3, placeholder="Who, where, what is at stake", elem_id="premise"
            )
            self.goal = gr.Textbox(label="Goal", placeholder="Mira forgives her brother.", elem_id="goal")
            self.characters = gr.Textbox(label="Characters", placeholder="Mira, Tom", elem_id="characters")
            with gr.Accordion("Memory and style", open=False):
                self.memory = gr.Textbox(label="Memory: facts the model always sees", lines=2)
                self.style = gr.Textbox(label="Style", placeholder="plain, first person")
            self.begin = gr.Button("Start story", variant="primary", elem_id="start")
        with gr.Accordion("My stories", open=False):
            self.saved = gr.Dropdown(choices=self._titles(), label="Open a story", elem_id="saved")

    def _card(self, number: int) -> tuple[gr.Group, gr.HTML, gr.Button, gr.Button]:
        with gr.Group(visible=False) as group:
            html = gr.HTML()
            with gr.Row():
                pick = gr.Button("Pick", size="sm", elem_id=f"pick-{number}")
                edit = gr.Button("Edit", size="sm", elem_id=f"edit-{number}")
        return group, html, pick, edit

    def _wire(self) -> None:
        form = [self.premise, self.goal, self.characters, self.memory, self.style]
        everything = self._outputs()
        self.begin.click(self._start, form, everything, api_visibility="private")
        self.suggest.click(
            self._suggest,
            [self.session, self.count],
            everything,
            concurrency_id=MODEL_QUEUE,
            concurrency_limit=1,
            trigger_mode="once",
            api_visibility="private",
        )
        gr.on(
            [self.add.click, self.text.submit],
            self._add,
            [self.session, self.kind, self.actor, self.text],
            everything,
            api_visibility="private",
        )
        self.undo.click(self._undo, [self.session], everything, api_visibility="private")
        self.saved.input(self._open, [self.saved], everything, api_visibility="private")
        for number, (_, _, pick, edit) in enumerate(self.cards):
            pick.click(self._picker(number), [self.session], everything, api_visibility="private")
            edit.click(self._editor(number), [self.session], everything, api_visibility="private")

    def _outputs(self) -> list[Any]:
        parts = [part for group, html, _, _ in self.cards for part in (group, html)]
        return [
            self.session,
            self.story_id,
            self.paper,
            self.own,
            self.table,
            self.form,
            self.saved,
            self.kind,
            self.actor,
            self.text,
            *parts,
        ]

    def _view(self, session: Session | None) -> list[Any]:
        """New values for all of `_outputs`."""
        draft = session.editing if session else None
        parts: list[Any] = []
        for number in range(_MOST):
            there = session is not None and number < len(session.suggestions)
            parts += [gr.update(visible=there), steps.card(session.suggestions[number]) if session and there else ""]
        return [
            session,
            session.story.id if session else None,
            steps.manuscript(session),
            gr.update(visible=session is not None),
            gr.update(visible=session is not None),
            gr.update(open=session is None),
            gr.update(choices=self._titles(), value=session.story.id if session else None),
            draft.kind.value if draft else gr.update(),
            (draft.actor or "") if draft else gr.update(),
            draft.text if draft else "",
            *parts,
        ]

    def _titles(self) -> list[tuple[str, str]]:
        return [(f"{info.title} ({info.turns} turns)", info.id) for info in self.store.list_stories()]

    def _saved(self, session: Session) -> list[Any]:
        self.store.save_story(session.story)
        return self._view(session)

    def restore(self, story_id: str | None) -> list[Any]:
        """What the page shows after a reload: the story that was open."""
        story = self.store.load_story(story_id) if isinstance(story_id, str) else None
        return self._view(Session(story) if story else None)

    def connect_reload(self, page: gr.Blocks) -> None:
        """Bring the open story back whenever the page loads."""
        page.load(self.restore, [self.story_id], self._outputs(), api_visibility="private")

    def _start(self, premise: str, goal: str, characters: str, memory: str, style: str) -> list[Any]:
        with friendly():
            return self._saved(steps.start(premise, goal, characters, memory, style))

    def _open(self, story_id: str) -> list[Any]:
        return self.restore(story_id)

    def _suggest(self, session: Session, count: int) -> list[Any]:
        with friendly():
            suggestions = tuple(self.agent.suggest(session.story, int(count), secrets.randbits(31)))
            session = Session(session.story, suggestions, session.editing)
            self.store.save_story(session.story)
            self.store.set_candidates(session.story.id, len(session.story.turns), steps.shown(session))
            return self._view(session)

    def _add(self, session: Session, kind: str, actor: str, text: str) -> list[Any]:
        with friendly():
            return self._saved(steps.add_turn(session, kind, actor, text))

    def _undo(self, session: Session) -> list[Any]:
        with friendly():
            return self._saved(steps.undo(session))

    def _picker(self, number: int) -> Any:
        def pick(session: Session) -> list[Any]:
            with friendly():
                after = steps.pick(session, number)
                self.store.save_story(after.story)
                position = len(session.story.turns)
                self.store.set_candidates(session.story.id, position, steps.shown(session, picked=number))
                return self._view(after)

        return pick

    def _editor(self, number: int) -> Any:
        def edit(session: Session) -> list[Any]:
            return self._view(steps.edit(session, number))

        return edit


@contextlib.contextmanager
def friendly() -> Iterator[None]:
    """Shows an InputError as a message on the page."""
    try:
        yield
    except InputError as error:
        raise gr.Error(str(error), print_exception=False) from error
