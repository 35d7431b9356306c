"""The Tune tab: what the writer has told the model of their taste, tuning on it, a blind test, and all policies."""

from collections.abc import Callable, Iterator, Sequence
from html import escape
from typing import Any

import gradio as gr

from storyrl.job import Job
from storyrl.policies import Known, Policies, TasteCard
from storyrl.share import Share
from storyrl.store import WEAK_PREFERENCES, Answer, BlindTest, Store
from storyrl.taste import FEWEST
from ui import html
from ui.agents import OwnAgent
from ui.blind import BlindStep
from ui.job import JobStep
from ui.pen import Done, Pen, Seen, Waiting
from ui.wiring import FREE_QUEUE, fields_of, friendly, panel, waiting_line, window, wire

_NAMES = {
    "storyteller": "The storyteller that comes with storyrl: SmolLM2-135M, taught the form on 1,021 written stories.",
    "smollm2": "SmolLM2-135M-Instruct as its makers trained it; it knows nothing of turns.",
}


class TasteStep:
    """Step 1: what the store holds, and learning from it."""

    def __init__(self, policies: Policies, pen: Pen):
        self.policies, self.pen = policies, pen
        gr.HTML("<h2>1. What you have told it</h2>")
        self.told = gr.HTML(elem_id="told")
        with gr.Row():
            self.learn = gr.Button("Learn my taste", variant="primary", elem_id="learn-taste", min_width=140)
            self.forget = gr.Button("Forget it", elem_id="forget-taste", visible=False, min_width=120)
        self.status = gr.HTML(elem_id="taste-status")
        self.outputs = [self.told, self.learn, self.forget, self.status]

    def view(self, said: str | None = None) -> list[Any]:
        """New values for `outputs`; without `said` the line below the buttons stays."""
        with friendly():
            card = self.policies.taste
            told = counts(self.policies.store) + (taste_card(card) if card else "")
        again = "Learn my taste again" if card else "Learn my taste"
        on = gr.update(value=again, interactive=True)
        return [told, on, gr.update(visible=card is not None), gr.skip() if said is None else html.status(said)]

    def learn_it(self, request: gr.Request) -> Iterator[list[Any]]:
        """Learn the taste anew and put it to use."""
        yield self._busy(html.status("Reading your answers ...", busy=True))
        with friendly():
            try:
                for event in self.pen.run(window(request, "taste"), self._job, "taste"):
                    match event:
                        case Waiting():
                            yield self._busy(waiting_line(event))
                        case Seen(told):
                            done, total = told or (0, 0)
                            rest = f" {done} of {total}" if total else ""
                            yield self._busy(html.status(f"Reading your answers ...{rest}", busy=True))
                        case Done(card):
                            yield self.view(f"Learned from {_number(card.choices, 'choice')}, and in use at once.")
            except Exception:
                yield self.view("")
                raise

    def _job(self, tell: Callable[[Any], bool]) -> TasteCard:
        return self.policies.learn_taste(lambda done, total: tell((done, total)))

    def _busy(self, line: str) -> list[Any]:
        return [gr.skip(), gr.update(interactive=False), gr.skip(), line]

    def forget_it(self) -> list[Any]:
        """Go back to the shipped preferences."""
        with friendly():
            self.policies.forget_taste()
        return self.view("Forgotten. What most readers prefer counts again; your answers are still there.")


class TuneTab:
    """The steps one under the other, and the list of policies."""

    def __init__(self, agent: OwnAgent, policies: Policies, pen: Pen):
        self.policies = policies
        gr.HTML(
            '<p class="lead">Teach the model what you like, and see for yourself whether it worked. '
            "What you answer in the Rate tab is what it learns from.</p>"
        )
        self.taste = TasteStep(policies, pen)
        self.job = JobStep(agent, policies)
        self.blind = BlindStep(agent, policies, pen)
        gr.HTML('<h2>Policies</h2><p class="lead">Every model that can write for you. The one in use writes all that '
                "you ask for from the next suggestion on.</p>")  # fmt: skip
        self.list = panel("policies")
        self.outputs = [*self.taste.outputs, *self.job.outputs, *self.blind.outputs, self.list]
        self._wire()

    def connect(self, tab: gr.Tab, page: gr.Blocks) -> None:
        """Show what there is whenever the page loads or the tab is opened."""
        for event in (page.load, tab.select):
            wire(event, self._view, [self.job.seen, self.blind.which], self.outputs, FREE_QUEUE, mode="always_last")

    def _wire(self) -> None:
        taste, job, blind = self.taste, self.job, self.blind
        self._step(taste.learn.click, taste.learn_it, None, taste.outputs)
        self._step(taste.forget.click, taste.forget_it, None, taste.outputs)
        self._step(job.start.click, job.begin, job.settings, None)
        self._step(job.resume.click, job.go_on, None, None)
        self._step(job.stop.click, job.end, None, None)
        wire(job.timer.tick, self._tick, [job.seen, blind.which], self.outputs, FREE_QUEUE)
        self._step(blind.write.click, blind.write_pairs, [blind.which, blind.source], blind.outputs)
        for answer, button in blind.answers.items():
            self._step(button.click, blind.answerer(answer), [blind.pair, blind.which], blind.outputs)
        self._step(blind.undo.click, blind.take_back, [blind.last, blind.which], blind.outputs)
        for button, keep in ((blind.keep, True), (blind.back, False)):
            self._step(button.click, blind.decider(keep), [blind.which], blind.outputs)
        wire(blind.which.input, blind.view, [blind.which], blind.outputs, FREE_QUEUE)
        wire(self.list.click, self._use, None, [self.list])

    def _step(self, event: Any, step: Callable[..., Any], inputs: Any, outputs: Any) -> None:
        """A step, and after it the parts that may look different now."""
        done = wire(event, step, inputs, outputs, FREE_QUEUE)
        rest = [*self.job.outputs, self.list]
        wire(done.then, self._rest, [self.job.seen], rest, FREE_QUEUE, mode="always_last")

    def _rest(self, seen: object) -> list[Any]:
        return [*self.job.view(seen), self._list()]

    def _view(self, seen: object, which: str | None) -> list[Any]:
        return [*self.taste.view(), *self.job.view(seen), *self.blind.view(which), self._list()]

    def _tick(self, seen: object, which: str | None) -> list[Any]:
        """How the tuning goes; when it ended, all the rest too."""
        if self.job.is_over(seen):
            return self._view(seen, which)
        skip = [gr.skip()]
        return [*skip * len(self.taste.outputs), *self.job.view(seen), *skip * len(self.blind.outputs), *skip]

    def _use(self, event: gr.EventData) -> str:
        with friendly():
            self.policies.use(str(fields_of(event).get("name", "")))
        return self._list()

    def _list(self) -> str:
        with friendly():
            known, tests, in_use = self.policies.known(), self.policies.store.blind_tests(), self.policies.in_use
            rows = [policy_row(each, each.name == in_use, tests, known) for each in known]
        return f'<ul class="policies">{"".join(rows)}</ul>'


# --- HTML -----------------------------------------------------------------------------------------------------------


def counts(store: Store) -> str:
    """How much the writer has answered, and how far they agree with themselves."""
    comparisons, marks = [c for c in store.comparisons() if c.repeat_of is None], store.ratings()
    ties = sum(c.answer in (Answer.TIE, Answer.BOTH_BAD) for c in comparisons)
    items = [
        f"<b>{len(comparisons)}</b> {'comparison' if len(comparisons) == 1 else 'comparisons'}",
        f"<b>{ties}</b> of them without a winner",
        f"<b>{len(marks)}</b> {'mark' if len(marks) == 1 else 'marks'} from 1 to 5",
    ]
    if store.get_setting(WEAK_PREFERENCES) is True:
        items.append(f"<b>{len(store.weak_preferences())}</b> weak preferences from your writing, which count less")
    lines = f'<ul class="told">{"".join(f"<li>{item}</li>" for item in items)}</ul>'
    if own := store.self_agreement():
        agreed, asked = own
        lines += f'<p class="hint">Asked the same pair again, you gave the same answer in {agreed} of {asked}.</p>'
    return lines


def taste_card(card: TasteCard) -> str:
    """A learned taste in words."""
    likes = ", ".join(card.leanings) or "nothing in particular so far"
    learned = _number(card.choices, "choice")
    text = f"<p>Learned from {learned}. Beside what most readers prefer, you like: {escape(likes)}.</p>"
    if card.agrees is None or card.shipped_agrees is None:
        return text + f'<p class="hint">How well it knows you: too few to say (fewer than {FEWEST} clear answers).</p>'
    low, high = card.agrees.interval
    doubt = "" if low > 0.5 else " It may still be guessing: more answers will tell."
    agrees, rate = _of(card.agrees), f"{card.agrees.rate:.0%} (between {low:.0%} and {high:.0%}, with 95 % confidence)"
    return text + (
        '<p title="Cross-validation in ten parts, by prompt; Wilson interval">How well it knows you: of your answers '
        f"that it had not seen it foretells {agrees}, {rate}. Without your taste it is {_of(card.shipped_agrees)}, by "
        f"chance half.{doubt}</p>"
    )


def policy_row(policy: Known, in_use: bool, tests: Sequence[BlindTest], known: Sequence[Known]) -> str:
    """A policy among those `known`: what it is, what it was trained on, and a button to use it."""
    used = '<span class="used">in use</span>' if in_use else html.button("Use", "use", data_name=policy.name)
    what = _NAMES.get(policy.name, "As the studio was started with it.")
    facts = _facts(policy.name, policy.job, tests, known) if policy.job else f"<p>{escape(what)}</p>"
    return f'<li><div class="row"><h3>{escape(policy.title)}</h3>{used}</div>{facts}</li>'


def _facts(name: str, job: Job, tests: Sequence[BlindTest], known: Sequence[Known]) -> str:
    look, titles = job.look(), {each.name: each.title for each in known}
    config, count = look.config, len(look.rows)
    stories = count * config.prompts_per_step * config.samples_per_prompt
    prompts = "the starter prompts" if config.prompts == "starter:train" else config.prompts
    terms = ", ".join(f"{name} {weight:g}" for name, weight in config.reward.items() if weight)
    rows = {
        "Started from": next((each.title for each in known if each.spec == config.policy), config.policy),
        "Learned in": f"{_number(count, 'step')}, from {stories} stories for {prompts}",
        "Taste": "yours" if config.taste else "what most readers prefer",
        "Moved": f"{look.rows[-1]['kl']:.2f} nats a story from where it started (KL)" if look.rows else "not at all",
        "Blind test": "; ".join(_blind(test, titles) for test in tests if test.after == name) or "not tested yet",
    }
    body = "".join(f"<dt>{word}</dt><dd>{escape(text)}</dd>" for word, text in rows.items())
    exact = f'<summary>Weights of the reward</summary><p class="hint">{escape(terms)}</p>'
    return f'<dl>{body}</dl><details class="told">{exact}</details>'


def _blind(test: BlindTest, titles: dict[str, str]) -> str:
    result, before = test.result, titles.get(test.before, test.before)
    if test.open:
        return f"against {before}: {result.count} of {len(test.pairs)} pairs answered"
    low, high = result.interval
    return f"preferred to {before} in {_of(result)} pairs (95 %: {low:.0%} to {high:.0%})"


def _of(share: Share) -> str:
    return f"{share.hits:g} of {share.count}"


def _number(count: int, word: str) -> str:
    return f"{count} {word if count == 1 else f'{word}s'}"
