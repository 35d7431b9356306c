"""Asking the model for the next turn: of which kind and how often, the place in line, and suggestions as they come."""

import secrets
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import gradio as gr

from storyrl.agent import Agent, Suggestion
from storyrl.choosing import Sampling
from storyrl.errors import InputError
from storyrl.policy import Watch
from storyrl.store import ShownCandidate, Tree
from storyrl.story import Kind
from ui import cards, html
from ui import session as steps
from ui.desk import Desk, Look
from ui.goal import GoalMeter
from ui.pen import Done, Pen, Seen, Waiting
from ui.session import Place
from ui.wiring import FREE_QUEUE, fields_of, friendly, waiting_line, window, wire

_MOST = 8
_FREE = "Let it choose"
_READY = gr.update(interactive=True), gr.update(visible=False)  # Suggest can be pressed, Stop cannot


class Asking:
    """Components and handlers. The cards that it fills are the Write tab's."""

    def __init__(self, agent: Agent, desk: Desk, meter: GoalMeter, pen: Pen, sampling: Callable[[], Sampling]):
        self.agent, self.desk, self.meter, self.pen, self._sampling = agent, desk, meter, pen, sampling
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
        self.status = gr.HTML(html.status(""), elem_id="write-status")

    def connect(
        self, where: list[Any], own: list[Any], finish: gr.Button, table: gr.HTML, then: Callable[[Any], None]
    ) -> None:
        """Wire them; `own` is the writer's own turn, which `finish` goes on with; `then` wires what comes after."""
        asked: list[tuple[Any, Callable[..., Any], list[Any]]] = [
            (self.suggest.click, self._suggest, [self.next_kind, self.next_who]),
            (table.submit, self._like, []),
            (finish.click, self._finish, own),
        ]
        for event, write, inputs in asked:
            outputs = [table, self.status, self.suggest, self.stop]
            written = wire(event, write, [*where, self.count, *inputs], outputs, FREE_QUEUE)
            then(wire(written.then, self._settle, where, [table, self.suggest, self.stop]).success)
        wire(self.stop.click, self._halt, None, None, queue=None)
        wire(self.next_kind.change, who_acts, [self.next_kind], [self.next_who], queue=None, mode="always_last")

    def table(self, look: Look) -> str:
        """The suggestions for the next turn as cards, the best first."""
        if look.round is None:
            return ""
        offers = steps.ranked(look.round.candidates, self.agent.reward, look.place.weights)
        has_goal, before = bool(look.tree.prompt.goal), self.meter.before(look.tree.story)
        return cards.cards(offers, has_goal, before) + cards.earlier(look.rounds, look.round)

    def candidate(self, place: Place, number: int | None = None) -> ShownCandidate:
        """A suggestion for the next turn; without its number the one that is being edited.

        Raises:
            InputError: it is not there any more.
        """
        wanted = place.draft if number is None else number
        for each in self.desk.look(place).rounds:
            for candidate in each.candidates:
                if candidate.id == wanted:
                    return candidate
        raise InputError("this suggestion is no longer here; ask for new ones")

    # --- handlers -----------------------------------------------------------------------------------------------------

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
            turn = self.candidate(place, int(fields_of(event)["candidate"])).turn
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
        tree, sampling = self.desk.look(place).tree, self._sampling()
        reading = html.status("Reading the story ...", busy=True)
        writing = html.status(f"Writing {int(count)} suggestions ..." if count > 1 else "Writing ...", busy=True)
        same = [gr.skip(), gr.skip()]

        def job(tell: Watch) -> list[Suggestion]:
            def watch(lines: list[str]) -> bool:
                return tell(lines if any(map(cards.words_of, lines)) else [])

            self.meter.read(tree.story)
            story = self.meter.aimed(tree.story)
            story = story.model_copy(update={"prompt": prepare(story.prompt)})
            return self.agent.suggest(story, int(count), secrets.randbits(31), sampling, opening, watch)

        yield [cards.drafts([""] * int(count)), reading, gr.update(interactive=False), gr.update(visible=True)]
        said, shown = "", reading
        try:
            for event in self.pen.run(window(request), job):
                match event:
                    case Waiting():
                        shown = waiting_line(event)
                        yield [gr.skip(), shown, *same]
                    case Seen(told):
                        line = writing if told else reading
                        words = cards.drafts(told) if told else gr.skip()
                        yield [words, gr.skip() if shown == line else line, *same]
                        shown = line
                    case Done(suggestions):
                        said = self._keep(tree, suggestions)
            yield [self.table(self.desk.look(place)), html.status(said), *same]
        except Exception:
            yield [self.table(self.desk.look(place)), html.status(""), *_READY]  # gradio goes no further after errors
            raise

    def _keep(self, tree: Tree, suggestions: Sequence[Suggestion]) -> str:
        """Put what the model wrote into the store as a round; says how many there are."""
        shown = [ShownCandidate(s.turn, s.scores, s.reward) for s in suggestions]
        if not shown:
            return ""
        self.desk.store.show(tree.story_id, shown, tree.tip)
        return "1 suggestion is ready." if len(shown) == 1 else f"{len(shown)} suggestions are ready."

    def _settle(self, place: Place | None, memory: object) -> list[Any]:
        """What the page shows once the model has written, was stopped, or failed."""
        place = Place.now(place, memory)
        with friendly():
            return [self.table(self.desk.look(place)) if place.story else "", *_READY]

    def _halt(self, request: gr.Request) -> None:
        self.pen.stop(window(request))


def who_acts(kind: str) -> Any:
    """Whether there is a field for who speaks or acts: narration has nobody."""
    return gr.update(visible=kind in (Kind.SAY, Kind.DO))
