"""The Rate tab: two stories for one prompt, blind. What the rater says of them is what their taste is learned from."""

import contextlib
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

import gradio as gr

from storyrl.errors import InputError
from storyrl.store import SIDES, Answer, Judgement, OpenPair, Stale, Store
from storyrl.story import Prompt
from ui import html
from ui import session as steps
from ui.pairs import ANSWERS, TURNS, Pairs, Ways
from ui.pen import Waiting
from ui.review import AnswersPage, KeptPage
from ui.session import Place
from ui.wiring import FREE_QUEUE, fields_of, friendly, panel, waiting_line, window, wire
from ui.write import WriteTab

ASPECTS = ("coherence", "language", "character", "interest", "goal reached")
"""What a story can be marked for, 1 to 5."""

_MARKS = [("–", ""), ("1 poor", "1"), ("2", "2"), ("3", "3"), ("4", "4"), ("5 excellent", "5")]
_SOURCES = [("a starter prompt", "starter"), ("the prompt of my open story", "mine"), ("a prompt of my own", "own")]
_ORDERS = [("the one that tells most of my taste", "telling"), ("one at random", "random")]
_SETTING = "rating"
_LONGEST_COMMENT = 2000
_HINT = (
    "Keys, outside of text fields: A, B, T (about the same), X (both are bad), or 1 to 4; U takes the last answer back."
)
_KEYS = """if (!window.rateKeys) document.addEventListener("keydown", window.rateKeys = (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (event.target.closest("input:not([type=radio]), textarea, select, [contenteditable]")) return;
  const keys = { a: "answer-A", b: "answer-B", t: "answer-tie", x: "answer-both_bad", u: "undo-answer" };
  const number = /^Digit([1-4])$/.exec(event.code)?.[1];
  const button = document.getElementById(number ? Object.values(keys)[number - 1] : keys[event.key.toLowerCase()]);
  if (!button || button.disabled || button.offsetParent === null) return;
  event.preventDefault();
  button.click();
});"""
_TO_THE_TOP = """() => { const pair = document.getElementById("pair");
  if (pair && pair.getBoundingClientRect().top < 0) pair.scrollIntoView(); }"""


class RateTab:
    """Components and handlers of the tab. What it needs of the Write tab is which story is open, and the pen."""

    def __init__(self, store: Store, write: WriteTab):
        self.store, self.write = store, write
        self.pairs = Pairs(write.agent, store, write.pen)
        self.errand = gr.State((0, False))  # counts what was asked of the model, and whether for other stories
        with gr.Tabs(elem_id="rate-rooms", overflow_behavior="wrap"):
            with gr.Tab("Compare"):
                self._compare()
            with gr.Tab("What the studio keeps") as kept:
                self.kept = KeptPage(store)
            with gr.Tab("My answers") as answers:
                self.answers = AnswersPage(store)
        self.kept.connect(kept)
        self.answers.connect(answers)

    def _compare(self) -> None:
        gr.HTML(
            '<p class="lead">Two stories for one prompt. Which would you rather read on? '
            "You are not told how they were made.</p>"
        )
        with gr.Row(elem_id="rate-bar"):
            self.source = gr.Radio(_SOURCES, value="starter", label="Write to", min_width=280)
            self.order = gr.Radio(_ORDERS, value="telling", label="Next pair", min_width=280)
        with gr.Row(visible=False) as self.own:
            self.premise = gr.Textbox(
                label="My premise", lines=2, max_length=4000, elem_id="own-premise", min_width=280
            )
            self.goal = gr.Textbox(
                label="My goal (an event, or empty)", lines=2, max_length=4000, elem_id="own-goal", min_width=280
            )
        with gr.Row(elem_id="rate-buttons"):
            self.new = gr.Button("New pair", variant="primary", elem_id="new-pair", min_width=130)
            self.undo = gr.Button("Undo my last answer", elem_id="undo-answer", min_width=130)
        self.status = gr.HTML(html.status(""), elem_id="rate-status")
        self.pair = panel("pair")
        gr.HTML(f'<p class="hint rate-keys">{_HINT}</p>', js_on_load=_KEYS)

    def connect(self, tab: gr.Tab, page: gr.Blocks) -> None:
        """Wire the tab; the open pair is read from the store whenever it comes into view."""
        where, ways = [self.write.place, self.write.memory], [self.source, self.order, self.premise, self.goal]
        view = [self.pair, self.status, self.undo, self.errand]
        wire(page.load, self._kept_ways, None, [self.own, *ways])
        wire(tab.select, self._show, [self.errand], view)
        for choice in (self.source.input, self.order.input, self.premise.blur, self.goal.blur):
            wire(choice, self._set_ways, ways, [self.own], mode="always_last")
        for event, step, inputs in (
            (self.new.click, self._new, [*where, *ways]),
            (self.pair.click, self._answer, where),
            (self.undo.click, self._undo, []),
        ):
            done = wire(event, step, [self.errand, *inputs], view)
            done.success(None, None, None, js=_TO_THE_TOP, api_visibility="private")
        wire(self.pair.input, self._draft, None, None, mode="multiple")
        ahead = [self.pair, self.status, self.undo]
        wire(self.errand.change, self._ahead, [self.errand, *where], ahead, FREE_QUEUE, mode="always_last")

    # --- views --------------------------------------------------------------------------------------------------------

    def _view(self, said: str = "") -> list[Any]:
        """The open pair, the status line, and whether there is an answer to undo."""
        pair, answered = self.store.open_pair(), self.store.counts()["comparisons"]
        line = html.status(f"{said} {self._count(answered)}".strip())
        return [pair_html(pair) if pair else "", line, gr.update(interactive=answered > 0)]

    def _count(self, answered: int) -> str:
        again = self.store.self_agreement()
        agreed = f" You agreed with yourself in {again[0]} of {again[1]} that were asked twice." if again else ""
        return f"You have answered {answered} {'pair' if answered == 1 else 'pairs'} so far.{agreed}"

    def _show(self, errand: tuple[int, bool]) -> list[Any]:
        return [*self._view(), (errand[0] + 1, False) if self.store.open_pair() else errand]

    def _kept_ways(self) -> list[Any]:
        ways = self._ways()
        return [gr.update(visible=ways.source == "own"), ways.source, ways.order, ways.premise, ways.goal]

    # --- steps --------------------------------------------------------------------------------------------------------

    def _ways(self) -> Ways:
        return Ways.of(self.store.get_setting(_SETTING))

    def _set_ways(self, source: str, order: str, premise: str | None, goal: str | None) -> Any:
        ways = Ways.of({"source": source, "order": order, "premise": premise or "", "goal": goal or ""})
        self.store.set_setting(_SETTING, ways.model_dump())
        return gr.update(visible=ways.source == "own")

    def _wanted(self, place: Place) -> tuple[Prompt | None, str]:
        """What stories are written to (None: a starter prompt), and a note where that is not what was chosen."""
        ways = self._ways()
        if ways.source == "own" and ways.premise.strip():
            return steps.changed_prompt(Prompt(id="own", premise="-"), premise=ways.premise, goal=ways.goal), ""
        if ways.source == "own":
            return None, "Your own prompt has no premise yet, so this is a starter prompt."
        story = self.store.load_story(place.story) if place.story and ways.source == "mine" else None
        if story is not None:
            return steps.aim(story.prompt, {}), ""
        return None, "There is no open story, so this is a starter prompt." if ways.source == "mine" else ""

    def _new(self, errand: tuple[int, bool], place: Place | None, memory: object, *ways: str) -> list[Any]:
        """Another pair instead of the one that is open, from the pool or written anew."""
        with friendly():
            self._set_ways(*ways)
            prompt, note = self._wanted(Place.now(place, memory))
            pair = self.pairs.ask(prompt, self._ways().order, instead_of=self.store.open_pair())
            if pair is None:
                self.store.put_away()
            return [*self._view(note), (errand[0] + 1, pair is None)]

    def _answer(self, errand: tuple[int, bool], place: Place | None, memory: object, event: gr.EventData) -> list[Any]:
        """Store the answer and ask about the next pair, if there is one already."""
        fields = fields_of(event)
        with friendly():
            try:
                self.store.answer(str(fields.get("key", "")), judgement(fields))
            except Stale as error:
                gr.Warning(str(error))
                return [*self._view(), gr.skip()]
            self.pairs.ask(self._wanted(Place.now(place, memory))[0], self._ways().order)
            return [*self._view("Thank you."), (errand[0] + 1, False)]

    def _draft(self, event: gr.EventData) -> None:
        fields = fields_of(event)
        with friendly():
            self.store.draft(str(fields.get("key", "")), judgement(fields))

    def _undo(self, errand: tuple[int, bool]) -> list[Any]:
        with friendly():
            said = self.store.undo_answer().draft.answer
        assert said is not None  # it was an answer
        return [*self._view(f"Taken back: you had said '{ANSWERS[said]}'."), (errand[0] + 1, False)]

    # --- the model ----------------------------------------------------------------------------------------------------

    def _ahead(
        self, errand: tuple[int, bool], place: Place | None, memory: object, request: gr.Request
    ) -> Iterator[list[Any]]:
        """Write what there is to ask about, when it runs low, and read what says which pair would tell most."""
        nothing, place, key = [gr.skip()] * 3, Place.now(place, memory), window(request, "pairs")
        yield nothing
        with friendly():
            if not errand[1]:
                yield from self._fill(place)
            is_done = False
            while not is_done and ((awaited := self.store.open_pair() is None) or self._has_time(place)):
                prompt, note = self._wanted(place)
                is_done = True
                with contextlib.closing(self.pairs.write(key, prompt, awaited)) as writing:
                    for event in writing:
                        if self._wanted(place)[0] != prompt:  # the rater thought better of it
                            is_done = False
                            break
                        yield nothing if self.store.open_pair() else [gr.skip(), _progress(event, note), gr.skip()]
                yield from self._fill(place)
            for _ in self.pairs.read_all(key, self._wanted(place)[0]):
                yield nothing

    def _has_time(self, place: Place) -> bool:
        """Whether stories run low while nobody uses the model."""
        return self.pairs.pen.busy == 0 and self.pairs.is_low(self._wanted(place)[0])

    def _fill(self, place: Place) -> Iterator[list[Any]]:
        """Ask about a pair, if none is open and there is one to ask about."""
        prompt, note = self._wanted(place)
        if self.store.open_pair() is None and self.pairs.ask(prompt, self._ways().order):
            yield self._view(note)


def _progress(event: Waiting | int, note: str) -> str:
    if isinstance(event, Waiting):
        return waiting_line(event)
    return html.status(f"{note} Writing stories ... {event} of {TURNS} turns".strip(), busy=True)


def judgement(fields: Mapping[str, Any]) -> Judgement:
    """What the form of a pair says.

    Raises:
        InputError: no such answer, a mark that is not 1 to 5, or too long a comment.
    """
    said, comment = fields.get("answer"), str(fields.get("comment", ""))
    if said is not None and said not in tuple(Answer):
        raise InputError(f"no such answer: {str(said)[:40]}")
    if len(comment) > _LONGEST_COMMENT:
        raise InputError(f"comment: expected at most {_LONGEST_COMMENT} characters, got {len(comment)}")
    marks: dict[str, dict[str, int]] = {side: {} for side in SIDES}
    for side in SIDES:
        for aspect in ASPECTS:
            value = str(fields.get(f"{side} {aspect}", ""))
            if value not in ("", "1", "2", "3", "4", "5"):
                raise InputError(f"{aspect} of {side}: expected a mark from 1 to 5, got '{value[:20]}'")
            if value:
                marks[side][aspect] = int(value)
    return Judgement(Answer(said) if said else None, marks, comment)


def pair_html(pair: OpenPair) -> str:
    """The two stories with the form for what the rater says of them.

    They stand in a tag of the pair's own: gradio changes a page only where its HTML differs, and would leave what was
    typed for the pair before in fields that look the same.
    """
    stories = "".join(
        f'<div id="story-{side.lower()}">{html.story_html(side, text)}</div>'
        for side, text in zip(SIDES, (pair.text_a, pair.text_b), strict=True)
    )
    answers = "".join(
        html.button(
            words,
            "answer",
            "primary" if pair.draft.answer is answer else "",
            id=f"answer-{answer.value}",
            data_answer=answer.value,
            aria_pressed="true" if pair.draft.answer is answer else None,
        )
        for answer, words in ANSWERS.items()
    )
    marked = any(pair.draft.marks.values())
    marks = "".join(
        _aspect(aspect, pair.draft.marks) for aspect in ASPECTS if aspect != "goal reached" or pair.prompt.goal
    )
    form = html.attributes({"class": "desk-form", "data-autosave": True, "data-do": "draft", "data-on": "input"})
    return (
        f'<pair-{pair.key}>{html.about(pair.prompt)}<div class="pair">{stories}</div>'
        f'<form aria-label="Your answer"{form}>'
        f'<input type="hidden" name="key" value="{escape(pair.key)}"><div class="row answers">{answers}</div>'
        + html.line("Comment (optional)", "comment", pair.draft.comment, maxlength=_LONGEST_COMMENT)
        + f"<details{' open' if marked else ''}><summary>Marks from 1 to 5 (optional)</summary>"
        f'<div class="marks">{marks}</div></details></form></pair-{pair.key}>'
    )


def _aspect(aspect: str, marks: Mapping[str, Mapping[str, int]]) -> str:
    choices = "".join(
        html.choice(side, f"{side} {aspect}", _MARKS, str(marks.get(side, {}).get(aspect, ""))) for side in SIDES
    )
    return f'<fieldset><legend>{aspect.capitalize()}</legend><div class="row">{choices}</div></fieldset>'
