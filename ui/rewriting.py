"""Rewriting a passage: the bar that asks for other versions of selected words, and the panel where they come.

Which words are selected is found out in the browser (ui/studio.js); what a version is, in storyrl/rewrite.py.
"""

import secrets
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from storyrl.agent import Agent, Suggestion
from storyrl.choosing import Sampling
from storyrl.policy import Watch
from storyrl.rewrite import Passage
from storyrl.store import ShownCandidate, Tree
from ui import cards, html
from ui import session as steps
from ui.desk import Desk, Look
from ui.goal import GoalMeter
from ui.pen import Done, Pen, Seen, Waiting
from ui.session import Place, Rewriting
from ui.wiring import FREE_QUEUE, friendly, panel, waiting_line, window, wire

_NONE = "No other words came out. Give a hint, select more, or choose a bolder way of writing (Model)."
_CHANGED = "The block was changed meanwhile, so these versions do not fit in any more. Select the words again."


class RewritingPanel:
    """Components and handlers. The panel's clicks are steps, which the Write tab wires."""

    def __init__(self, agent: Agent, desk: Desk, meter: GoalMeter, pen: Pen, sampling: Callable[[], Sampling]):
        self.agent, self.desk, self.meter, self.pen, self._sampling = agent, desk, meter, pen, sampling
        self.bar = panel("passage", value=bar())
        with gr.Column(elem_id="rewriting-sheet"):
            self.status = gr.HTML(html.status(""), elem_id="rewriting-status")
            self.panel = panel("rewriting")

    def connect(self, open_: Callable[[Any], Any], where: list[Any], count: gr.Slider) -> None:
        """Wire them; `open_` wires an event to the step that puts the passage on the table."""
        outputs = [self.panel, self.status]
        for event in (self.bar.submit, self.panel.submit):
            written = wire(open_(event).success, self._write, [*where, count], outputs, FREE_QUEUE)
            wire(written.then, self._settle, where, [self.panel])
        wire(self.panel.input, self._halt, None, None, queue=None)

    def view(self, look: Look) -> str:
        """The versions of the passage that is being rewritten; empty when none is."""
        where = look.place.rewriting
        if where is None:
            return ""
        rounds, turn = look.versions.get(where.block, ()), look.tree.node(where.block).turn
        number, offers, older = _number(look.tree, where), [], ""
        if shown := next((each for each in rounds if each.id == where.round), rounds[0] if rounds else None):
            kept = steps.frame(shown.candidates[0]) or (0, 0)
            where = where.model_copy(update={"start": kept[0], "end": len(turn.text) - kept[1]})
            offers = steps.ranked_versions(shown.candidates, self.agent.reward, look.place.weights)
            older = cards.earlier(rounds, shown, "version")
        return _section(cards.versions(offers, turn, where, number, bool(look.tree.prompt.goal)) + older)

    def _write(self, place: Place | None, memory: object, count: float, request: gr.Request) -> Iterator[list[Any]]:
        with friendly():
            look = self.desk.look(Place.now(place, memory))
            if look.place.rewriting is None:
                return
            try:
                yield from self._versions(look.tree, look.place.rewriting, int(count), request)
            except Exception:
                yield [self.view(self.desk.look(look.place)), html.status("")]  # gradio goes no further after errors
                raise

    def _versions(self, tree: Tree, where: Rewriting, count: int, request: gr.Request) -> Iterator[list[Any]]:
        sampling, key = self._sampling(), window(request, "rewrite")
        self.pen.stop(key)
        number = _number(tree, where)
        head = cards.passage_head(tree.path[number - 1].turn, where, number, writing=True)
        line = html.status(f"Writing {count} versions ..." if count > 1 else "Writing ...", busy=True)

        def job(watch: Watch) -> list[Suggestion]:
            so_far = tree.story.model_copy(update={"turns": tree.story.turns[: number - 1]})
            self.meter.read(so_far)
            story = tree.story.model_copy(update={"prompt": self.meter.aimed(so_far).prompt})
            passage = Passage(number - 1, where.start, where.end)
            return self.agent.rewrite(story, passage, count, secrets.randbits(31), sampling, where.hint, watch)

        for event in self.pen.run(key, job, "rewriting"):
            match event:
                case Waiting():
                    yield [_section(head + cards.drafts([""] * count)), waiting_line(event)]
                case Seen(told):
                    yield [_section(head + cards.drafts((told or [""] * count)[:count])), line]
                case Done(versions):
                    yield [gr.skip(), html.status(self._keep(tree, where, versions))]

    def _keep(self, tree: Tree, where: Rewriting, versions: list[Suggestion]) -> str:
        """Store the versions as a round of candidates for their block's place; says how many there are."""
        if not versions:
            return _NONE
        node = tree.node(where.block)
        kept = {steps.KEPT_BEFORE: where.start, steps.KEPT_AFTER: len(node.turn.text) - where.end}
        shown = [ShownCandidate(each.turn, {**each.scores, **kept}, each.reward) for each in versions]
        round_ = self.desk.store.show(tree.story_id, shown, node.parent)
        now = {each.id: each.turn for each in self.desk.store.tree(tree.story_id).path}
        if where.block not in now or not steps.versions_of([round_], now[where.block]):
            return _CHANGED
        return "1 version is ready." if len(shown) == 1 else f"{len(shown)} versions are ready."

    def _settle(self, place: Place | None, memory: object) -> str:
        """What the panel shows once the versions are written, were stopped, or failed."""
        place = Place.now(place, memory)
        if place.story is None:
            return ""
        with friendly():
            return self.view(self.desk.look(place))

    def _halt(self, request: gr.Request) -> None:
        self.pen.stop(window(request, "rewrite"))


def bar() -> str:
    """The form that comes up beside selected words, and what it says when they are no passage; both hidden at first."""
    hidden = "".join(f'<input type="hidden" name="{name}">' for name in ("block", "start", "end", "seen"))
    return (
        '<form class="desk-form passage-bar" aria-label="Rewrite a passage" hidden>'
        f'<p class="quote" role="status"></p>{hidden}<div class="row fields">'
        + html.line("Hint (optional)", "hint", "", maxlength=200, placeholder="darker", autocomplete="off")
        + html.button("Rewrite", "rewrite", "first primary", data_on="submit", title="R, then Enter")
        + '</div><button type="button" class="act mark close" aria-label="Close">✕</button></form>'
    )


def _section(inside: str) -> str:
    return f'<section class="rewriting" aria-label="Rewriting">{inside}</section>'


def _number(tree: Tree, where: Rewriting) -> int:
    """The block's number in the story, from 1."""
    return 1 + [node.id for node in tree.path].index(where.block)
