"""Two lists to look through and delete from: what the studio keeps of how one writes, and one's answers to pairs."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape
from typing import Any

import gradio as gr

from storyrl.errors import InputError
from storyrl.store import SIDES, WEAK_PREFERENCES, Comparison, Judgement, Store, Weak, WeakPreference
from ui.html import attributes, button, check, status
from ui.pairs import ANSWERS
from ui.wiring import fields_of, friendly, panel, wire

PAGE = 10
"""Entries of a list on a page."""

_EXCERPT = 400  # characters of a story in the list of answers
_HOW = {
    Weak.PICKED: ("you picked", "over, beside it,"),
    Weak.ASKED_ANEW: ("you picked, after asking anew,", "over what you had passed over"),
    Weak.EDITED: ("you made it", "from the suggestion"),
}
_WHAT = (
    "The suggestions that the model made, and its versions of passages, are kept with their story, so that you can go "
    "back to them. What you did with them says something of your taste: a suggestion that you picked was better to "
    "you than those beside it, and than those that you had passed over by asking anew; and your own wording was "
    "better than the suggestion that you changed. With your consent this counts, a little, when your taste is "
    "learned. Without it nothing of it is used, of what is listed here or of what is to come. Nothing of it leaves "
    "this studio's database."
)
_DELETED = "Deleting an entry means that nothing is ever learned from it; the suggestion itself stays with its story."


class KeptPage:
    """What the studio keeps of the writer's writing: consent, and all weak preferences."""

    def __init__(self, store: Store):
        self.store = store
        self.said = gr.HTML(status(""), elem_id="kept-status")
        self.page = panel("kept")

    def connect(self, tab: gr.Tab) -> None:
        """Wire it; the list is read whenever it comes into view."""
        wire(tab.select, self._show, None, [self.page, self.said])
        for event in (self.page.click, self.page.input):
            wire(event, self._act, None, [self.page, self.said])

    def _show(self, number: int = 0, said: str = "") -> list[str]:
        with friendly():
            weak, agreed = self.store.weak_preferences(), self.store.get_setting(WEAK_PREFERENCES) is True
        return [kept(weak, agreed, number), status(said)]

    def _act(self, event: gr.EventData) -> list[str]:
        fields = fields_of(event)
        do = str(fields.get("do", ""))
        with friendly():
            if do == "consent":
                agreed = fields.get("agreed") is True
                self.store.set_setting(WEAK_PREFERENCES, agreed)
                return self._show(0, "It counts from now on." if agreed else "It is not used any more.")
            if do == "forget":
                self.store.forget_preferences([(_number(fields, "better"), _number(fields, "worse"))])
                return self._show(_number(fields, "page"), "Deleted.")
            if do == "forget-all":
                keys = [weak.key for weak in self.store.weak_preferences()]
                self.store.forget_preferences(keys)
                return self._show(0, f"Deleted all {len(keys)}.")
            return self._show(_number(fields, "page"))


class AnswersPage:
    """The rater's answers to pairs."""

    def __init__(self, store: Store):
        self.store = store
        self.said = gr.HTML(status(""), elem_id="answers-status")
        self.page = panel("answers")

    def connect(self, tab: gr.Tab) -> None:
        """Wire it; the list is read whenever it comes into view."""
        wire(tab.select, self._show, None, [self.page, self.said])
        wire(self.page.click, self._act, None, [self.page, self.said])

    def _show(self, number: int = 0, said: str = "") -> list[str]:
        with friendly():
            total = self.store.counts()["comparisons"]
            number = within(number, total)
            return [answers(self.store.latest_answers(number * PAGE, PAGE), number, total), status(said)]

    def _act(self, event: gr.EventData) -> list[str]:
        fields = fields_of(event)
        with friendly():
            if fields.get("do") == "delete":
                self.store.delete_comparison(_number(fields, "answer"))
                return self._show(_number(fields, "page"), "Deleted, with its marks.")
            return self._show(_number(fields, "page"))


def kept(weak: Sequence[WeakPreference], agreed: bool, number: int) -> str:
    """The page of what is kept: consent, and a page of the list."""
    given = attributes({"class": "desk-form", "data-autosave": True, "data-do": "consent", "data-on": "input"})
    box = check("Learn from what I pick and change while I write", "agreed", agreed)
    head = f'<h3>What the studio keeps of your writing</h3><p>{_WHAT}</p><form aria-label="Consent"{given}>{box}</form>'
    if not weak:
        return f'{head}<p class="hint">There is nothing yet: no suggestion was picked beside others, or changed.</p>'
    number = within(number, len(weak))
    rows = "".join(_weak(each, number) for each in weak[number * PAGE : (number + 1) * PAGE])
    many = f"{len(weak)} {'entry' if len(weak) == 1 else 'entries'}, {'used' if agreed else 'not used'}"
    ask = f"Delete all {len(weak)} entries? Nothing will be learned from them."
    everything = button("Delete all", "forget-all", data_ask=ask)
    return (
        f'{head}<p class="hint">{_DELETED}</p><p class="row"><span>{many}</span>{everything}</p>'
        f'<ul class="kept">{rows}</ul>{_turner(number, len(weak))}'
    )


def _weak(weak: WeakPreference, number: int) -> str:
    what, over = _HOW[weak.how]
    better, worse = weak.key
    label = f"Delete: {weak.better.text[:60]}, over {weak.worse.text[:60]}"
    delete = button("Delete", "forget", aria_label=label, data_better=better, data_worse=worse, data_page=number)
    return (
        f'<li><p class="by">In “{escape(weak.title)}”, {_when(weak.created)}</p><dl><dt>{what}</dt>'
        f"<dd>{escape(weak.better.prose())}</dd><dt>{over}</dt><dd>{escape(weak.worse.prose())}</dd></dl>{delete}</li>"
    )


def answers(shown: Sequence[tuple[Comparison, Judgement]], number: int, total: int) -> str:
    """A page of the answers; `shown` are those of page `number`."""
    if not shown:
        return '<p class="hint">You have not answered a pair yet.</p>'
    rows = "".join(_answer(comparison, judgement, number) for comparison, judgement in shown)
    return f'<ul class="kept">{rows}</ul>{_turner(number, total)}'


def _answer(comparison: Comparison, judgement: Judgement, number: int) -> str:
    when = _when(comparison.created) if comparison.created else ""
    again = ", asked a second time" if comparison.repeat_of else ""
    sides = "".join(
        f"<div><h4>{side}</h4><p>{_excerpt(text)}</p>{_marks(judgement.marks.get(side, {}))}</div>"
        for side, text in zip(SIDES, (comparison.text_a, comparison.text_b), strict=True)
    )
    comment = f'<p class="comment">Your comment: {escape(judgement.comment)}</p>' if judgement.comment else ""
    label = f"Delete: {ANSWERS[comparison.answer]}, {when}"
    delete = button("Delete", "delete", aria_label=label, data_answer=comparison.id, data_page=number)
    return (
        f'<li><p class="by">{when}{again}</p><p class="said">{ANSWERS[comparison.answer]}</p>'
        f'<p class="about">{escape(comparison.prompt.premise)}</p>{comment}'
        f'<details><summary>The two stories</summary><div class="sides">{sides}</div></details>{delete}</li>'
    )


def _marks(marks: Mapping[str, int]) -> str:
    return f"<p>{escape(', '.join(f'{aspect} {value}' for aspect, value in marks.items()))}</p>" if marks else ""


def _excerpt(text: str) -> str:
    return escape(text if len(text) <= _EXCERPT else f"{text[:_EXCERPT].rsplit(maxsplit=1)[0]} …")


def within(number: int, total: int) -> int:
    """The number of a page, brought to what there is."""
    return max(0, min(number, (total - 1) // PAGE))


def _turner(number: int, total: int) -> str:
    """Buttons to the pages beside this one; empty when there is only one."""
    last = within(total, total)
    if last == 0:
        return ""
    newer = button("‹ Newer", "turn", data_page=number - 1) if number else ""
    older = button("Older ›", "turn", data_page=number + 1) if number < last else ""
    return f'<p class="row rounds">{newer}<span>Page {number + 1} of {last + 1}</span>{older}</p>'


def _when(time: datetime) -> str:
    return f"{time:%d %b %Y, %H:%M} UTC"


def _number(fields: Mapping[str, Any], name: str) -> int:
    try:
        return int(str(fields[name])[:18])
    except (KeyError, ValueError) as error:
        raise InputError(f"{name}: expected a number; reload the page") from error
