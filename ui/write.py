"""The Write tab: a story as a manuscript, suggestions for its next turn, and the writer's own turns.

Only the components and how they hang together; what a step does is in ui/desk.py, how things look in the HTML files.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import gradio as gr

from storyrl.agent import Agent, Suggestion
from storyrl.errors import InputError
from storyrl.store import ShownCandidate, Stale
from storyrl.story import Kind, Story, Turn
from ui import cards, control, html
from ui import session as steps
from ui.desk import Desk, Look
from ui.goal import GoalMeter, goal_panel
from ui.manuscript import manuscript, side_by_side
from ui.pen import Order, Pen
from ui.reading import ReadingTabs
from ui.session import Place
from ui.tree_map import tree_map
from ui.wiring import MODEL_QUEUE, fields_of, friendly, panel, wire

_MOST = 8
_STALE = "This story was changed in another window. Here it is as it is now; your last step was not taken, repeat it."
_KEYS = (
    "Outside of text fields: S suggest, 1 to 8 pick a suggestion, Shift+1 to 8 edit it first, N write your own turn, "
    "X stop the model, Ctrl+Z undo, Ctrl+Shift+Z redo. In a text field: Ctrl+Enter adds or saves it, Escape leaves it."
)
_FREE = "Let it choose"
_READY = gr.update(interactive=True), gr.update(visible=False)  # Suggest can be pressed, Stop cannot


class WriteTab:
    """Components and handlers of the tab. `place` is where the writer is; `memory` is the browser's copy of it."""

    def __init__(self, agent: Agent, desk: Desk, memory: gr.BrowserState):
        self.agent, self.desk, self.memory = agent, desk, memory
        self.meter, self.pen = GoalMeter(agent), Pen(agent)
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
            *(self.beside, self.goal_panel, self.always, self.lore, self.undo, self.redo),
        ]
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
        with gr.Tabs(elem_id="side", overflow_behavior="wrap"):
            with gr.Tab("Next"):
                self._ask()
                self.status = gr.HTML(html.status(""), elem_id="write-status")
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

    def _ask(self) -> None:
        kinds = [(_FREE, ""), *html.KINDS]
        with gr.Row():
            self.next_kind = gr.Dropdown(kinds, value="", label="Next turn", elem_id="next-kind", min_width=130)
            self.next_who = gr.Textbox(
                label="Who (or empty)", visible=False, elem_id="next-who", min_width=110, max_length=60
            )
            self.count = gr.Slider(
                1, _MOST, value=3, step=1, label="How many", buttons=[], min_width=130, elem_id="count"
            )
        with gr.Row():
            self.suggest = gr.Button("Suggest", variant="primary", elem_id="suggest", min_width=120)
            self.stop = gr.Button("Stop", elem_id="stop", visible=False, min_width=90)

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
            self._step(each.input, self._act, where, [*view, *own], mode="always_last")
        self.reading.connect(where)
        self._model(self.suggest.click, self._suggest, [*where, self.count, self.next_kind, self.next_who])
        self._model(self.table.submit, self._like, [*where, self.count])
        self._model(self.finish.click, self._finish, [*where, self.count, *own])
        self.stop.click(self._stop, api_visibility="private", queue=False)
        for kind, who in ((self.kind, self.actor), (self.next_kind, self.next_who)):
            kind.change(_who, [kind], [who], show_progress="hidden", api_visibility="private", queue=False)

    def _step(self, event: Any, step: Callable[..., Any], inputs: Any, outputs: Any = None, mode: str = "once") -> None:
        """A step, and after it the goal meter, which runs a model."""
        done = wire(event, step, inputs, outputs or self.view_outputs, mode=mode)
        wire(done.success, self._measure, [self.place, self.memory], [self.goal_panel, self.table], MODEL_QUEUE)

    def _model(self, event: Any, write: Callable[..., Any], inputs: Any) -> None:
        """Something that the model writes; nothing else is locked meanwhile."""
        outputs = [self.table, self.status, self.suggest, self.stop]
        done = wire(event, write, inputs, outputs, MODEL_QUEUE)
        wire(done.then, self._settle, [self.place, self.memory], [*outputs, self.goal_panel], MODEL_QUEUE)

    def connect_reload(self, page: gr.Blocks) -> None:
        """Bring the open story back whenever the page loads."""
        self._step(page.load, self._restore, [self.memory], [*self.view_outputs, self.status])

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
            manuscript(tree, place.chosen, unsaved),
            self._table(look),
            cards.weighing(place.weights),
            tree_map(tree, place.compare),
            side_by_side(compared) if compared else "",
            self._goal(tree.story),
            control.prompt_form(tree.prompt),
            control.lore_table(tree.prompt),
            gr.update(interactive=tree.undo is not None),
            gr.update(interactive=tree.redo is not None),
        ]

    def _table(self, look: Look) -> str:
        if look.round is None:
            return ""
        offers = steps.ranked(look.round.candidates, self.agent.reward, look.place.weights)
        has_goal, before = bool(look.tree.prompt.goal), self.meter.before(look.tree.story)
        return cards.cards(offers, has_goal, before) + cards.earlier(look.rounds, look.round)

    def _goal(self, story: Story) -> str:
        return goal_panel(story.prompt, self.meter.known(story), self.meter.works)

    def _measure(self, place: Place | None, memory: object) -> list[Any]:
        """Read with the goal classifier what is new, and show it."""
        place = Place.now(place, memory)
        if place.story is None:
            return [gr.skip(), gr.skip()]
        with friendly():
            look = self.desk.look(place)
            self.meter.read(look.tree.story)
            return [self._goal(look.tree.story), self._table(look)]

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
        fields = fields_of(event)
        _, view = self._take(Place.now(place, memory), str(fields.get("do", "")), fields)
        if fields.get("do") != "take":
            return [*view, gr.skip(), gr.skip(), gr.skip()]
        with friendly():
            turn = self._candidate(view[0]).turn
        return [*view, turn.kind.value, turn.actor or "", turn.text]

    def _candidate(self, place: Place, number: int | None = None) -> ShownCandidate:
        """A suggestion for the next turn; without its number the one that is being edited."""
        wanted = place.draft if number is None else number
        for each in self.desk.look(place).rounds:
            for candidate in each.candidates:
                if candidate.id == wanted:
                    return candidate
        raise InputError("this suggestion is no longer here; ask for new ones")

    def _stepper(self, name: str) -> Callable[..., list[Any]]:
        def step(place: Place | None, memory: object) -> list[Any]:
            return self._take(Place.now(place, memory), name, {})[1]

        return step

    def _restore(self, memory: object) -> list[Any]:
        with friendly():
            return [*self.view(self.desk.newest(Place.of(memory))), html.status("")]

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

    # --- the model ----------------------------------------------------------------------------------------------------

    def _suggest(
        self, place: Place | None, memory: object, count: int, kind: str, who: str, request: gr.Request
    ) -> Iterator[list[Any]]:
        with friendly():
            yield from self._write(Place.now(place, memory), request, count, steps.opening(kind, who or ""))

    def _finish(
        self, place: Place | None, memory: object, count: int, kind: str, who: str, text: str, request: gr.Request
    ) -> Iterator[list[Any]]:
        """Suggestions that begin with the writer's own words."""
        with friendly():
            if not text.strip():
                raise InputError("Please write how the turn begins first.")
            yield from self._write(Place.now(place, memory), request, count, steps.opening(kind, who or "", text))

    def _like(
        self, place: Place | None, memory: object, count: int, event: gr.EventData, request: gr.Request
    ) -> Iterator[list[Any]]:
        """Suggestions of a suggestion's kind and speaker, with its text as an example of the style."""
        with friendly():
            place = Place.now(place, memory)
            turn = self._candidate(place, int(fields_of(event)["candidate"])).turn
            opening = steps.opening(turn.kind, turn.actor or "")
            yield from self._write(place, request, count, opening, partial(steps.in_the_manner_of, text=turn.text))

    def _write(
        self,
        place: Place,
        request: gr.Request,
        count: int,
        opening: str,
        prepare: Callable[[Any], Any] = lambda prompt: prompt,
    ) -> Iterator[list[Any]]:
        tree = self.desk.look(place).tree
        self.meter.read(tree.story)
        story = self.meter.aimed(tree.story)
        story = story.model_copy(update={"prompt": prepare(story.prompt)})
        order = Order(story, int(count), self.reading.manner().sampling, opening)
        line = html.status(f"Writing {int(count)} suggestions ..." if count > 1 else "Writing ...", busy=True)
        busy = [line, gr.update(interactive=False), gr.update(visible=True)]
        yield [cards.drafts([""] * order.count), *busy]
        try:
            for texts in self.pen.write(str(request.session_hash), order):
                if texts and isinstance(texts[0], str):
                    yield [cards.drafts([str(text) for text in texts]), *busy]
                elif texts:
                    shown = [ShownCandidate(s.turn, s.scores, s.reward) for s in texts if isinstance(s, Suggestion)]
                    self.desk.store.show(tree.story_id, shown, tree.tip)
                    line = "1 suggestion is ready." if len(shown) == 1 else f"{len(shown)} suggestions are ready."
                    yield [gr.skip(), html.status(line), gr.skip(), gr.skip()]
        except Exception:
            yield [self._table(self.desk.look(place)), html.status(""), *_READY]  # gradio goes no further after errors
            raise

    def _settle(self, place: Place | None, memory: object) -> list[Any]:
        """What the page shows once the model has written, was stopped, or failed."""
        with friendly():
            [goal, table] = self._measure(place, memory)
        return [table, gr.skip(), *_READY, goal]

    def _stop(self, request: gr.Request) -> None:
        self.pen.stop(str(request.session_hash))


def _who(kind: str) -> Any:
    """Narration has nobody who speaks or acts."""
    return gr.update(visible=kind in (Kind.SAY, Kind.DO))
