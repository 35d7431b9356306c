"""Step 3 of the Tune tab: the writer compares stories from before and after a tuning, not knowing which is which."""

import random
import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gradio as gr

from prompts.readers import read_prompts
from storyrl.errors import InputError
from storyrl.policies import Known, Policies
from storyrl.policy import WRITING, Policy
from storyrl.share import Share
from storyrl.store import Answer, BlindTest
from storyrl.story import Prompt, Story
from ui import html
from ui.agents import OwnAgent
from ui.job import HELDOUT
from ui.pen import Done, Pen, Waiting
from ui.session import aim
from ui.wiring import friendly, waiting_line, window

PAIRS = 10
_TURNS = 4
_BUTTONS = {Answer.A: "A is better", Answer.TIE: "About the same", Answer.B: "B is better"}
_STARTER, _MINE = "heldout", "mine"
_SOURCES = [("starter prompts that no model has practised on", _STARTER), ("the prompts of my own stories", _MINE)]
_EXACT = (
    "Both policies write the first four turns of a story for the same prompts, one story each, with the settings that "
    "suggestions are written with, and none is chosen among several. Which one is A is drawn so that each is A in five "
    "of ten pairs. A tie counts half for either; the interval is Wilson's, at 95 %. Who looks at the result after "
    "every ten pairs and stops when it pleases is misled more often than one time in twenty: settle on a number before."
)


class BlindStep:
    """Components of the step, and what they show. `pair` is the id of the pair that the page asks about,
    `last` that of the one answered just before."""

    def __init__(self, agent: OwnAgent, policies: Policies, pen: Pen):
        self.agent, self.policies, self.pen = agent, policies, pen
        self.pair, self.last = gr.State(None), gr.State(None)
        gr.HTML(
            "<h2>3. Is it better? You decide, blind</h2>"
            f'<p class="lead">{PAIRS} times you read two stories for one prompt: one as the model wrote before the '
            "tuning, one as it writes after it. You are not told which is which.</p>"
        )
        with gr.Column(visible=False, elem_id="blind-bar") as self.bar:
            with gr.Row():
                self.which = gr.Dropdown([], label="Which tuning", elem_id="blind-which", min_width=220)
                self.source = gr.Radio(_SOURCES, value=_STARTER, label="Stories for", min_width=280)
            with gr.Row():
                self.write = gr.Button("", variant="primary", elem_id="blind-write")
        self.status = gr.HTML(elem_id="blind-status")
        with gr.Column(visible=False, elem_id="blind-pair") as self.judge:
            self.about = gr.HTML()
            with gr.Row(elem_id="blind-stories"):
                self.left, self.right = gr.HTML(elem_id="blind-a"), gr.HTML(elem_id="blind-b")
            with gr.Row():
                self.answers = {
                    answer: gr.Button(text, elem_id=f"blind-answer-{answer.value}", min_width=130)
                    for answer, text in _BUTTONS.items()
                }
            self.undo = gr.Button("Undo my last answer", elem_id="blind-undo", size="sm")
        self.result = gr.HTML(elem_id="blind-result")
        with gr.Row(visible=False) as self.decide:
            self.keep = gr.Button("Keep: write with the tuned model", elem_id="blind-keep", min_width=200)
            self.back = gr.Button("Roll back: write with the one before", elem_id="blind-back", min_width=200)
        gr.HTML(f'<details class="told"><summary>In exact words</summary><p class="hint">{_EXACT}</p></details>')
        self.outputs = [
            *(self.pair, self.bar, self.which, self.write, self.status, self.judge, self.about),
            *(self.left, self.right, self.result, self.decide, self.last, self.undo),
        ]

    # --- views --------------------------------------------------------------------------------------------------------

    def view(self, which: str | None = None, said: str = "", last: int | None = None) -> list[Any]:
        """New values for `outputs`; `which` is the name of the tuned policy (at first: the latest)."""
        runs = [known for known in self.policies.known() if known.job]
        run = next((known for known in runs if known.name == which), next(iter(runs), None))
        if run is None:
            hidden = [gr.update(visible=False), "", "", "", "", gr.update(visible=False)]
            nothing = html.status("Once a tuning is finished, you can test it here.")
            return [None, gr.update(visible=False), gr.skip(), gr.skip(), nothing, *hidden, None, gr.skip()]
        test = self._test(run)
        pair = test.open if test else None
        done, total = (test.result.count, len(test.pairs)) if test else (0, 0)
        line = f"Pair {done + 1} of {total}. Which would you rather read on?" if pair else said
        sides = [html.story_html(*side) for side in zip("AB", pair.texts, strict=True)] if pair else ["", ""]
        is_told = test is not None and pair is None
        return [
            pair.id if pair else None,
            gr.update(visible=pair is None),
            gr.update(choices=[(known.title, known.name) for known in runs], value=run.name),
            gr.update(value=f"Write {PAIRS} more pairs" if test else f"Write {PAIRS} pairs", interactive=True),
            html.status(line),
            gr.update(visible=pair is not None),
            html.about(pair.prompt) if pair else "",
            *sides,
            f'<p class="verdict">{verdict(test.result)}</p>' if test and is_told else "",
            gr.update(visible=is_told),
            last,
            gr.update(interactive=last is not None),
        ]

    def _test(self, run: Known) -> BlindTest | None:
        before = self.before(run)
        found = (test for test in self.policies.store.blind_tests() if test.after == run.name and test.before == before)
        return next(found, None)

    def before(self, run: Known) -> str:
        """Name of the policy from which a run started."""
        with friendly():
            return self.policies.name_of(run.job.config.policy) if run.job else run.name

    # --- steps --------------------------------------------------------------------------------------------------------

    def write_pairs(self, which: str | None, source: str, request: gr.Request) -> Iterator[list[Any]]:
        """Let both policies write, a turn at a time, so that others need not wait long for the model."""
        skip = [gr.skip()] * len(self.outputs)
        at, button = self.outputs.index(self.status), self.outputs.index(self.write)
        off: list[Any] = [*skip[:button], gr.update(interactive=False), *skip[button + 1 :]]

        def shown(line: str) -> list[Any]:
            return [*off[:at], line, *off[at + 1 :]]

        with friendly():
            try:
                run = self.policies.find(which or "")
                names = self.policies.find(self.before(run)).name, run.name
                prompts = self._prompts(source, self._test(run))
                yield shown(html.status("Writing the stories ...", busy=True))
                texts = []
                for side, name in enumerate(names):
                    stories = [Story(id=f"blind-{secrets.token_hex(4)}", prompt=prompt) for prompt in prompts]
                    for turn in range(_TURNS):
                        part = f"Writing the stories ... {side * _TURNS + turn} of {2 * _TURNS} parts"
                        for event in self.pen.run(window(request, "blind"), self._writer(name, stories), "blind"):
                            yield shown(
                                waiting_line(event) if isinstance(event, Waiting) else html.status(part, busy=True)
                            )
                            if isinstance(event, Done):
                                stories = event.result
                    texts.append([story.text for story in stories])
                self.policies.store.add_blind_pairs(*names, list(zip(prompts, *texts, strict=True)))
            except Exception:
                yield self.view(which)
                raise
        yield self.view(which)

    def answerer(self, answer: Answer) -> Callable[..., list[Any]]:
        """The step that a button takes: keep this answer and show the next pair."""

        def keep_answer(pair: int | None, which: str | None) -> list[Any]:
            if pair is not None:
                try:
                    self.policies.store.answer_blind_pair(pair, answer)
                except InputError as error:
                    gr.Warning(str(error))
            return self.view(which, "That was the last pair.", last=pair)

        return keep_answer

    def take_back(self, last: int | None, which: str | None) -> list[Any]:
        """Ask again about the pair that was answered last."""
        if last is not None:
            try:
                self.policies.store.undo_blind_answer(last)
            except InputError as error:
                gr.Warning(str(error))
        return self.view(which)

    def decider(self, keep: bool) -> Callable[..., list[Any]]:
        """The step of Keep, or of Roll back."""

        def use(which: str | None) -> list[Any]:
            with friendly():
                run = self.policies.find(which or "")
                self.policies.use(run.name if keep else self.before(run))
                chosen = "the tuned model" if keep else "the model from before the tuning"
                return self.view(which, f"From the next suggestion on {chosen} writes.")

        return use

    def _prompts(self, source: str, test: BlindTest | None) -> list[Prompt]:
        """Prompts for the next pairs, at first such that were not asked about yet.

        Raises:
            InputError: the writer has no story.
        """
        store = self.policies.store
        if source == _MINE:
            stories = (store.load_story(info.id) for info in store.list_stories()[:100])
            known = [aim(story.prompt, {}) for story in stories if story]
        else:
            known = read_prompts(HELDOUT)
        if not known:
            raise InputError("you have no story yet whose prompt could be used; take the starter prompts")
        asked = [pair.prompt for pair in test.pairs] if test else []
        random.shuffle(known)
        known.sort(key=asked.count)
        return [known[number % len(known)] for number in range(PAIRS)]

    def _writer(self, name: str, stories: Sequence[Story]) -> Callable[[Callable[[Any], bool]], list[Story]]:
        return lambda _: next_turns(self.agent.named(name), stories)


def next_turns(policy: Policy, stories: Sequence[Story]) -> list[Story]:
    """Each story with the turn that the policy writes next; as it is where that is no turn."""
    drawn = policy.write(stories, 1, secrets.randbits(31), WRITING, may_end=False)
    turns = [candidates[0].turn for candidates in drawn]
    return [story.with_turns(turn) if turn else story for story, turn in zip(stories, turns, strict=True)]


def verdict(result: Share) -> str:
    """What the answers say of the tuned policy, in one sentence."""
    low, high = result.interval
    times = f"{result.hits:g} of {result.count}"
    facts = f"you preferred the tuned model in {times} pairs ({result.rate:.0%}; ties count half)"
    range_ = f"the true share lies between {low:.0%} and {high:.0%}, with 95 % confidence"
    if low > 0.5:
        return f"Better: {facts}, and {range_}."
    if high < 0.5:
        return f"Worse: {facts}, and {range_}."
    return f"Cannot tell yet: {facts}, and {range_}; go on with {PAIRS} more."
