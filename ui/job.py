"""Step 2 of the Tune tab: tuning as a process of its own, seen as it goes."""

from collections.abc import Mapping
from html import escape
from typing import Any

import gradio as gr

from prompts.readers import read_prompts
from rewards.composite import DEFAULT_WEIGHTS
from storyrl.agent import Agent
from storyrl.config import TuneConfig
from storyrl.errors import InputError
from storyrl.job import Job, Look, Phase, State, running
from storyrl.policies import Policies
from ui.curves import before_and_after, charts, latest_sample
from ui.wiring import friendly

HELDOUT = "starter:heldout"
_EVERY = 2.0  # seconds between two looks
_REACH = {"gentle": (0.2, 3.0), "normal": (0.1, 8.0), "bold": (0.05, 20.0)}  # beta, KL budget
_FAR = [
    ("Gently: stay close to how it writes", "gentle"),
    ("Normal", "normal"),
    ("Boldly: change it much", "bold"),
]
_EXACT = (
    "Policy gradient (RLOO) on its own stories, in storyrl/tuning/loop.py; it runs as `storyrl tune`. How far it may "
    "move is the weight of the KL to the policy that it started from (beta 0.2, 0.1 or 0.05) and the KL at which it "
    "ends by itself (3, 8 or 20 nats a story). The pull of taste and goal multiplies the usual weights of the reward."
)
_OTHERS = "Somebody else's tuning is running. There is one at a time on this machine; try again when it has ended."


class JobStep:
    """Components of the step, and what they show. `seen` is what the page shows already."""

    def __init__(self, agent: Agent, policies: Policies):
        self.agent, self.policies = agent, policies
        self.seen = gr.State(None)
        self._heldout = read_prompts(HELDOUT)
        gr.HTML(
            "<h2>2. Tune the model on it</h2>"
            '<p class="lead">The model writes stories, and learns from those that come out more to your taste and '
            "nearer to their goals. It goes on by itself while you write, and when you close this page.</p>"
        )
        with gr.Row():
            self.steps = gr.Slider(
                1,
                200,
                value=24,
                step=1,
                label="Steps",
                info="24 take 15 to 30 minutes",
                buttons=[],
                elem_id="tune-steps",
            )
            self.reach = gr.Radio(
                _FAR, value="normal", label="How far it may move", elem_id="tune-reach", min_width=290
            )
        with gr.Accordion("Advanced", open=False, elem_id="tune-advanced"):
            self._advanced()
        with gr.Row():
            self.start = gr.Button("Tune it", variant="primary", elem_id="tune-start", min_width=140)
            self.resume = gr.Button("Go on", elem_id="tune-resume", visible=False, min_width=120)
            self.stop = gr.Button("Stop", elem_id="tune-stop", visible=False, min_width=120)
        self.status = gr.HTML(elem_id="tune-status")
        self.charts = gr.HTML(elem_id="tune-charts")
        self.stories = gr.HTML(elem_id="tune-stories")
        self.timer = gr.Timer(_EVERY, active=False)
        self.settings = [self.steps, self.reach, self.taste, self.goal, *self.sizes]
        self.outputs = [
            *(self.seen, self.status, self.charts, self.stories),
            *(self.start, self.resume, self.stop, self.timer),
        ]

    def _advanced(self) -> None:
        with gr.Row():
            self.taste = gr.Slider(0, 4, value=2, step=0.25, label="Pull of your taste", buttons=[])
            self.goal = gr.Slider(0, 4, value=1, step=0.25, label="Pull of the goal", buttons=[])
        with gr.Row():
            names = ("prompts_per_step", "samples_per_prompt", "max_tokens", "heldout")
            usual = TuneConfig()
            limits = {
                "prompts_per_step": (1, 16, usual.prompts_per_step, 1, "Prompts a step"),
                "samples_per_prompt": (2, 16, usual.samples_per_prompt, 1, "Stories a prompt"),
                "max_tokens": (16, 400, usual.max_tokens, 8, "Longest story, in tokens (about 4 are 3 words)"),
                "heldout": (1, len(self._heldout), 40, 1, "Prompts kept aside, for stories before and after"),
            }
            self.sizes = [
                gr.Slider(low, high, value=value, step=step, label=label, buttons=[], elem_id=f"tune-{name}")
                for name, (low, high, value, step, label) in ((name, limits[name]) for name in names)
            ]
        gr.HTML(f'<details class="told"><summary>In exact words</summary><p class="hint">{_EXACT}</p></details>')

    # --- views --------------------------------------------------------------------------------------------------------

    def view(self, seen: object = None) -> list[Any]:
        """New values for `outputs`; what the page shows already is left alone."""
        job = next(iter(self.policies.jobs), None)
        look, problem = _look(job)
        mine = look is not None and look.state is State.RUNNING
        busy = mine or running(self.policies.runs) is not None
        moment, progress, stories = None, "", ""
        if job and look:
            moment = [job.folder.name, look.state, look.phase, len(look.rows)]
            old = seen if isinstance(seen, list) else [None] * len(moment)
            progress = _progress(job, look) if moment != old else gr.skip()
            is_new = moment[:3] != old[:3]  # else a folded list would close whenever a step ends
            stories = before_and_after(job.stories("before"), job.stories("after")) if is_new else gr.skip()
        return [
            moment,
            _line(problem) if problem else self._status(look, busy),
            progress,
            stories,
            gr.update(visible=not mine, interactive=not busy),
            gr.update(visible=look is not None and look.state in (State.STOPPED, State.FAILED), interactive=not busy),
            gr.update(visible=mine),
            gr.Timer(active=busy),
        ]

    def is_over(self, seen: object) -> bool:
        """Whether the tuning that the page shows as running has ended."""
        job = next(iter(self.policies.jobs), None)
        return isinstance(seen, list) and seen[1] == State.RUNNING and not (job and job.is_running)

    def _status(self, look: Look | None, busy: bool) -> str:
        if busy and (look is None or look.state is not State.RUNNING):
            return _line(_OTHERS)
        return _line(*_words(look)) if look else _line("Nothing has been tuned yet.")

    # --- steps --------------------------------------------------------------------------------------------------------

    def begin(self, steps: float, reach: str, taste: float, goal: float, *sizes: float) -> None:
        """Start to tune with the settings of the page."""
        prompts, samples, tokens, heldout = (int(size) for size in sizes)
        beta, budget = _REACH.get(reach, _REACH["normal"])
        with friendly():
            if not 1 <= heldout <= len(self._heldout):
                raise InputError(f"prompts kept aside: expected 1 to {len(self._heldout)}, got {heldout}")
            config = TuneConfig(
                steps=int(steps),
                prompts_per_step=prompts,
                samples_per_prompt=samples,
                max_tokens=tokens,
                beta=beta,
                kl_budget=budget,
                reward=self._weights(taste, goal),
                save_every=1,  # so that nothing is lost by stopping
            )
            self.policies.tune(config, self._heldout[:heldout])

    def go_on(self) -> None:
        """Resume the latest job."""
        with friendly():
            self._latest().resume(self.policies.runs)

    def end(self) -> None:
        """Stop the latest job."""
        with friendly():
            self._latest().stop()

    def _latest(self) -> Job:
        job = next(iter(self.policies.jobs), None)
        if job is None:
            raise InputError("there is no tuning of yours; start one first")
        return job

    def _weights(self, taste: float, goal: float) -> Mapping[str, float]:
        """The weights that the studio was started with, those of taste and goal multiplied."""
        terms = self.agent.reward.terms
        weights = dict.fromkeys(DEFAULT_WEIGHTS, 0.0) | {name: term.weight for name, term in terms.items()}
        return weights | {"preference": weights["preference"] * taste, "goal": weights["goal"] * goal}


def _look(job: Job | None) -> tuple[Look | None, str]:
    """How a job stands, or why that cannot be told."""
    try:
        return (job.look() if job else None), ""
    except InputError as error:
        return None, str(error)


def _progress(job: Job, look: Look) -> str:
    alarms = "".join(f'<p class="alarm" role="alert">Take care: {escape(alarm)}.</p>' for alarm in look.alarms)
    latest = latest_sample(job.samples()) if look.state is State.RUNNING else ""
    return alarms + charts(look.rows, look.config.steps, look.config.kl_budget) + latest


def _words(look: Look) -> tuple[str, str, bool]:
    """What is going on, how long it will last, and whether it is going on."""
    done, steps = len(look.rows), look.config.steps
    if look.state is State.FINISHED:
        early = f" It ended before step {steps}: it had moved as far as it may." if done < steps else ""
        return (
            f"Tuned for {done} {'step' if done == 1 else 'steps'}.{early} Step 3 shows whether it is better.",
            "",
            False,
        )
    if look.state is State.STOPPED:
        return f"Stopped after step {done} of {steps}. What it learned is kept; Go on continues.", "", False
    if look.state is State.FAILED:
        return f"Ended after step {done} of {steps}: {look.error}", "", False
    if look.phase is Phase.LOADING:
        return "Loading the model ...", "", True
    if look.phase is Phase.BEFORE:
        return "Writing stories as it writes today, to compare with later ...", "", True
    if look.phase is Phase.AFTER:
        return "Writing stories as it writes after tuning ...", "", True
    return "Tuning", f": {done} of {steps} steps done{left(look.seconds_left)}", True


def left(seconds: float | None) -> str:
    """The time that is left, roughly."""
    if seconds is None:
        return ""
    if seconds < 90:
        return f", at most {max(5, round(seconds / 5) * 5)} s left"
    return f", at most {round(seconds / 60)} min left"


def _line(text: str, rest: str = "", busy: bool = False) -> str:
    """As ui.html.status; what changes all the time is not read out."""
    more = f'<span aria-hidden="true">{rest}</span>' if rest else ""
    return f'<p class="status{" busy" if busy else ""}" role="status">{escape(text)}{more}</p>'
