"""The Write tab: a story as a manuscript, suggestions for its next turn, and the writer's own turns.

Only the components and how they hang together; what a step does is in ui/desk.py, how things look in the HTML files.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gradio as gr

from storyrl.agent import Agent
from storyrl.choosing import Sampling
from storyrl.errors import InputError
from storyrl.store import Stale
from storyrl.story import Kind, Story, Turn
from ui import cards, control, html
from ui import session as steps
from ui.asking import Asking, who_acts
from ui.desk import Desk
from ui.goal import GoalMeter, goal_panel
from ui.manuscript import manuscript, side_by_side
from ui.pen import Done, Pen, Rank
from ui.reading import ReadingTabs
from ui.rewriting import RewritingPanel
from ui.session import Place
from ui.tree_map import tree_map
from ui.wiring import FREE_QUEUE, fields_of, friendly, panel, window, wire

_READ_AT_ONCE = 32  # turns that the goal classifier reads before others may have the model
_STALE = "This story was changed in another window. Here it is as it is now; your last step was not taken, repeat it."
_KEYS = (
    "Outside of text fields: S suggest, 1 to 8 pick a suggestion, Shift+1 to 8 edit it first, N write your own turn, "
    "R rewrite the selected words or the open block (then 1 to 8 pick a version), X stop the model, Ctrl+Z undo, "
    "Ctrl+Shift+Z redo. In a text field: Ctrl+Enter adds or saves it, Escape leaves it."
)


class WriteTab:
    """Components and handlers of the tab. `place` is where the writer is; `memory` is the browser's copy of it."""

    def __init__(self, agent: Agent, desk: Desk, memory: gr.BrowserState, pen: Pen):
        self.agent, self.desk, self.memory = agent, desk, memory
        self.meter, self.pen = GoalMeter(agent), pen
        self.place = gr.State(None)
        with gr.Column(elem_id="shelf") as self.form:
            self._story_form()
        with gr.Column(visible=False, elem_id="desk") as self.page:  # a grid: see studio.css
            with gr.Column(elem_id="paper"):
                self._tools()
                self.paper = panel("manuscript")
            with gr.Column(elem_id="table"):
                self._side()
            with gr.Column(elem_id="own"):
                self._own_turn()
        self.view_outputs = [
            *(self.place, self.memory, self.form, self.page, self.paper, self.table, self.weights, self.map),
            *(self.beside, self.goal_panel, self.always, self.lore, self.rewriting.panel, self.undo, self.redo),
        ]
        # What there is to show anew after a step that leaves the story as it is: a long one takes its time to draw.
        self.shows: Mapping[str, Sequence[Any]] = {
            **dict.fromkeys(("choose", "close"), (self.paper,)),
            **dict.fromkeys(("rewrite", "version", "versions", "keep"), (self.rewriting.panel,)),
            **dict.fromkeys(("compare", "apart"), (self.map, self.beside)),
            **dict.fromkeys(("take", "round"), (self.table,)),
            "weights": (self.weights, self.table, self.rewriting.panel),
        }
        self._wire()

    # --- components ---------------------------------------------------------------------------------------------------

    def _story_form(self) -> None:
        longest = 4000
        self.premise = gr.Textbox(
            label="Premise", lines=3, placeholder="Who, where, what is at stake", elem_id="premise", max_length=longest
        )
        self.goal = gr.Textbox(
            label="Goal (of several steps, one a line)",
            placeholder="An event, such as: Mira forgives her brother.",
            elem_id="goal",
            max_length=longest,
        )
        self.characters = gr.Textbox(label="Characters", placeholder="Mira, Tom", elem_id="characters", max_length=2000)
        with gr.Accordion("Memory and style", open=False):
            self.first_memory = gr.Textbox(
                label="Memory", info="Facts the model always sees", lines=2, max_length=longest
            )
            self.style = gr.Textbox(label="Style", placeholder="plain, first person", max_length=longest)
        self.begin = gr.Button("Start story", variant="primary", elem_id="start")

    def _tools(self) -> None:
        with gr.Row(elem_id="tools"):
            self.undo = gr.Button("Undo", size="sm", elem_id="undo", min_width=80)
            self.redo = gr.Button("Redo", size="sm", elem_id="redo", min_width=80)
            self.new = gr.Button("New story", size="sm", elem_id="new-story", min_width=100)

    def _side(self) -> None:
        self.rewriting = RewritingPanel(self.agent, self.desk, self.meter, self.pen, self._sampling)
        with gr.Tabs(elem_id="side", overflow_behavior="wrap"):
            with gr.Tab("Next"):
                self.asking = Asking(self.agent, self.desk, self.meter, self.pen, self._sampling)
                self.table = panel("cards")
                self.weights = panel("weights")
            with gr.Tab("Goal"):
                self.goal_panel = panel("goal-panel")
            with gr.Tab("Map"):
                self.map = panel("map")
                self.beside = gr.HTML(elem_id="beside")
            with gr.Tab("Memory"):
                self.always = panel("always")
                self.lore = panel("lore")
            self.reading = ReadingTabs(self.agent, self.desk, self.meter)

    def _sampling(self) -> Sampling:
        return self.reading.manner().sampling

    def _own_turn(self) -> None:
        with gr.Row():
            self.kind = gr.Radio(
                html.KINDS, value=Kind.NARRATE.value, label="Your turn", min_width=230, elem_id="own-kind"
            )
            self.actor = gr.Textbox(label="Who", visible=False, min_width=120, elem_id="own-actor", max_length=60)
        self.text = gr.Textbox(label="Text (Ctrl+Enter adds it)", lines=3, elem_id="own-text", max_length=20_000)
        with gr.Row():
            self.add = gr.Button("Add my turn", elem_id="add-turn", min_width=110)
            self.finish = gr.Button("Let it finish", elem_id="finish", min_width=130)
            self.discard = gr.Button("Clear", elem_id="discard", min_width=80)
        gr.HTML(f'<details class="keys"><summary>Keyboard</summary><p>{_KEYS}</p></details>')

    # --- wiring -------------------------------------------------------------------------------------------------------

    def _wire(self) -> None:
        where = [self.place, self.memory]
        form = [self.premise, self.goal, self.characters, self.first_memory, self.style]
        own, view = [self.kind, self.actor, self.text], self.view_outputs
        self._step(self.begin.click, self._start, [*where, *form], [*view, *form])
        self._step(self.new.click, self._new, where)
        for name in ("undo", "redo"):
            self._step(getattr(self, name).click, self._stepper(name), where)
        for button in (self.add.click, self.text.submit):
            self._step(button, self._add, [*where, *own], [*view, *own])
        self._step(self.discard.click, self._discard, where, [*view, *own])
        for each in (self.paper, self.table, self.weights, self.map, self.goal_panel, self.always, self.lore):
            self._step(each.click, self._act, where, [*view, *own])
            self._step(each.input, self._act, where, [*view, *own], mode="multiple")
        self._step(self.rewriting.panel.click, self._act, where, [*view, *own])
        self.rewriting.connect(lambda event: wire(event, self._act, where, [*view, *own]), where, self.asking.count)
        self.reading.connect(where)
        self.asking.connect(where, own, self.finish, self.table, self.measured)
        wire(self.kind.change, who_acts, [self.kind], [self.actor], queue=None, mode="always_last")

    def _step(self, event: Any, step: Callable[..., Any], inputs: Any, outputs: Any = None, mode: str = "once") -> None:
        """A step, and after it the goal meter, which runs a model."""
        self.measured(wire(event, step, inputs, outputs or self.view_outputs, mode=mode).success)

    def measured(self, event: Any) -> None:
        """What follows after an event that changed the story or opened one: the goal meter, and reading ahead."""
        where, outputs = [self.place, self.memory], [self.goal_panel, self.table]
        measured = wire(event, self._measure, where, outputs, FREE_QUEUE, mode="always_last")
        wire(measured.then, self._read_ahead, where, [], FREE_QUEUE, mode="multiple")

    def connect_reload(self, page: gr.Blocks) -> None:
        """Bring the open story back whenever the page loads."""
        self._step(page.load, self._restore, [self.place, self.memory], [*self.view_outputs, self.asking.status])

    # --- views --------------------------------------------------------------------------------------------------------

    def view(self, place: Place, unsaved: Turn | None = None) -> list[Any]:
        """New values for all of `view_outputs`."""
        if place.story is None:
            nothing = [""] * (len(self.view_outputs) - 6)
            off = gr.update(interactive=False)
            return [place, place.model_dump(), gr.update(visible=True), gr.update(visible=False), *nothing, off, off]
        look = self.desk.look(place)
        tree, place = look.tree, look.place
        compared = tree.compare(tree.tip, tree.end(place.compare)) if place.compare and tree.tip else None
        return [
            place,
            place.model_dump(),
            gr.update(visible=False),
            gr.update(visible=True),
            manuscript(tree, place.chosen, unsaved, look.versions_of(place.chosen)),
            self.asking.table(look),
            cards.weighing(place.weights),
            tree_map(tree, place.compare),
            side_by_side(compared) if compared else "",
            self._goal(tree.story),
            control.prompt_form(tree.prompt),
            control.lore_table(tree.prompt),
            self.rewriting.view(look),
            gr.update(interactive=tree.undo is not None),
            gr.update(interactive=tree.redo is not None),
        ]

    def _goal(self, story: Story) -> str:
        return goal_panel(story.prompt, self.meter.known(story), self.meter.works)

    def _measure(self, place: Place | None, memory: object, request: gr.Request) -> Iterator[list[Any]]:
        """Read with the goal classifier what is new, a little at a time, and show it."""
        nothing, place = [gr.skip(), gr.skip()], Place.now(place, memory)
        yield nothing
        if place.story is None:
            return
        with friendly():
            story = self.desk.look(place).tree.story
            unread = len(self.meter.unread(story))
            if not unread:
                return
            for _ in range(0, unread, _READ_AT_ONCE):
                for _ in self.pen.run(window(request, "measure"), self._reader(story), "measure", Rank.SHORT):
                    yield nothing
            look = self.desk.look(place)
            yield [self._goal(look.tree.story), self.asking.table(look)]

    def _reader(self, story: Story) -> Callable[[Callable[[Any], bool]], Any]:
        return lambda _: self.meter.read(story, _READ_AT_ONCE)

    def _read_ahead(self, place: Place | None, memory: object, request: gr.Request) -> None:
        """Let the model read what it has not read of the story while nobody waits for it: suggestions begin sooner."""
        key, place = window(request, "ahead"), Place.now(place, memory)
        self.pen.stop(key)  # what the step before began
        if place.story is None:
            return
        with contextlib.suppress(InputError):  # whoever asks for suggestions will be told
            story, sampling = self.desk.look(place).tree.story, self._sampling()

            def piece(tell: Callable[[Any], bool]) -> bool:
                return self.agent.read_ahead(self.meter.aimed(story), sampling) and tell(None)

            while any(event == Done(True) for event in self.pen.run(key, piece, "ahead", Rank.IDLE)):
                pass

    # --- steps --------------------------------------------------------------------------------------------------------

    def _take(self, place: Place, name: str, fields: Mapping[str, Any]) -> tuple[bool, list[Any]]:
        """Take a step; whether it was taken, and the view after it.

        A window that is behind is told so, and shows the newest with the words that were not saved.
        """
        with friendly():
            try:
                return True, self.view(self.desk.do(place, name, fields))
            except Stale:
                gr.Warning(_STALE)
                unsaved = steps.turn_of(fields["kind"], fields["actor"], fields["text"]) if name == "save" else None
                return False, self.view(self.desk.newest(place), unsaved)

    def _act(self, place: Place | None, memory: object, event: gr.EventData) -> list[Any]:
        """A step that a panel sent; taking a suggestion to edit fills the form of the writer's own turn."""
        fields, place = fields_of(event), Place.now(place, memory)
        name = str(fields.get("do", ""))
        _, view = self._take(place, name, fields)
        if view[0].version == place.version and name in self.shows:
            shown = [self.place, self.memory, *self.shows[name]]
            view = [new if each in shown else gr.skip() for each, new in zip(self.view_outputs, view, strict=True)]
        if name != "take":
            return [*view, gr.skip(), gr.skip(), gr.skip()]
        with friendly():
            turn = self.asking.candidate(view[0]).turn
        return [*view, turn.kind.value, turn.actor or "", turn.text]

    def _stepper(self, name: str) -> Callable[..., list[Any]]:
        def step(place: Place | None, memory: object) -> list[Any]:
            return self._take(Place.now(place, memory), name, {})[1]

        return step

    def _restore(self, place: Place | None, memory: object) -> list[Any]:
        with friendly():
            return [*self.view(self.desk.newest(Place.now(place, memory))), html.status("")]

    def _start(
        self, place: Place | None, memory: object, premise: str, goal: str, characters: str, facts: str, style: str
    ) -> list[Any]:
        with friendly():
            story = steps.start(*(text or "" for text in (premise, goal, characters, facts, style)))
            return [*self.view(self.desk.start(story, Place.now(place, memory))), "", "", "", "", ""]

    def _new(self, place: Place | None, memory: object) -> list[Any]:
        return self.view(Place(weights=Place.now(place, memory).weights))

    def _add(self, place: Place | None, memory: object, kind: str, actor: str, text: str) -> list[Any]:
        taken, view = self._take(Place.now(place, memory), "add", {"kind": kind, "actor": actor, "text": text})
        return [*view, gr.skip(), gr.skip(), "" if taken else gr.skip()]

    def _discard(self, place: Place | None, memory: object) -> list[Any]:
        return [*self._take(Place.now(place, memory), "discard", {})[1], gr.skip(), gr.skip(), ""]
