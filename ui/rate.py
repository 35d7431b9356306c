"""The Rate tab: two stories for one prompt, blind; the answer becomes a comparison in the store."""

import random
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from prompts.readers import read_prompts
from storyrl.agent import Agent
from storyrl.store import Answer, Comparison, Store
from storyrl.story import Prompt, Story
from ui import html
from ui.session import Place, aim
from ui.wiring import MODEL_QUEUE, friendly

_TURNS = 4
_CANDIDATES = 3  # a turn; the best by reward is taken
_BUTTONS = {
    Answer.A: "A is better",
    Answer.B: "B is better",
    Answer.TIE: "About the same",
    Answer.BOTH_BAD: "Both are bad",
}
_STARTER, _MINE = "a starter prompt", "the prompt of my open story"
_HIDE = gr.update(visible=False)


@dataclass(frozen=True)
class Pair:
    """Two stories in the order in which they are shown."""

    prompt: Prompt
    text_a: str
    text_b: str


class RateTab:
    """Components and handlers of the tab. `place` tells which story is open in the Write tab."""

    def __init__(self, agent: Agent, store: Store, place: gr.State):
        self.agent, self.store, self.place = agent, store, place
        self.prompts = read_prompts("starter:train")
        self.pair = gr.State(None)
        gr.HTML(
            '<p class="lead">Two stories for one prompt. Which would you rather read on? '
            "You are not told how they were made.</p>"
        )
        with gr.Row(elem_id="rate-bar"):
            self.source = gr.Radio([_STARTER, _MINE], value=_STARTER, label="Write to", min_width=280, scale=3)
            self.new = gr.Button("New pair", variant="primary", elem_id="new-pair", min_width=140, scale=1)
        self.status = gr.HTML(lambda: html.status(self._count()), elem_id="rate-status")
        self.about = gr.HTML()
        with gr.Row(elem_id="pair"):
            self.left, self.right = gr.HTML(elem_id="story-a"), gr.HTML(elem_id="story-b")
        with gr.Column(visible=False) as self.judge:
            self.comment = gr.Textbox(label="Comment (optional)", lines=1, max_length=2000)
            with gr.Row():
                self.answers = {
                    answer: gr.Button(text, elem_id=f"answer-{answer.value}", min_width=130)
                    for answer, text in _BUTTONS.items()
                }
        self._wire()

    def _wire(self) -> None:
        self.new.click(
            self._draw,
            [self.source, self.place],
            [self.pair, self.status, self.about, self.left, self.right, self.judge, self.new],
            concurrency_id=MODEL_QUEUE,
            concurrency_limit=1,
            trigger_mode="once",
            show_progress="hidden",
            api_visibility="private",
        )
        for answer, button in self.answers.items():
            button.click(
                self._answerer(answer),
                [self.pair, self.comment],
                [self.pair, self.status, self.comment, self.judge],
                concurrency_id="answer",  # one after the other: the second of two clicks finds no pair
                concurrency_limit=1,
                show_progress="hidden",
                api_visibility="private",
            )

    def _count(self) -> str:
        number = self.store.counts()["comparisons"]
        return f"You have answered {number} {'pair' if number == 1 else 'pairs'} so far."

    def _draw(self, source: str, place: Place | None) -> Iterator[list[Any]]:
        """Write two stories side by side, turn by turn, and lay them out in random order."""
        mine = self.store.load_story(place.story) if source == _MINE and place and place.story else None
        prompt = aim(mine.prompt, {}) if mine else random.choice(self.prompts)
        note = "There is no open story, so this is a starter prompt. " if source == _MINE and not mine else ""
        about = html.about(prompt)
        stories = [Story(id=f"pair-{side}", prompt=prompt) for side in (1, 2)]
        with friendly():
            try:
                for number in range(_TURNS):
                    line = html.status(f"{note}Writing ... {number} of {_TURNS} turns", busy=True)
                    yield [None, line, about, "", "", gr.update(visible=False), gr.update(interactive=False)]
                    stories = self.agent.write_all(stories, 1, _CANDIDATES, secrets.randbits(31))
            except Exception:
                yield [None, html.status(self._count()), "", "", "", gr.update(), gr.update(interactive=True)]
                raise
        random.shuffle(stories)
        pair = Pair(prompt, *(story.text for story in stories))
        sides = html.story_html("A", pair.text_a), html.story_html("B", pair.text_b)
        line = html.status(f"{note}{self._count()}")
        yield [pair, line, about, *sides, gr.update(visible=True), gr.update(interactive=True)]

    def _answerer(self, answer: Answer) -> Any:
        def store_answer(pair: Pair | None, comment: str) -> list[Any]:
            if pair is None:
                return [None, html.status(f"Nothing to answer here; ask for a new pair. {self._count()}"), "", _HIDE]
            name = self.agent.policy_name
            with friendly():
                self.store.add_comparison(
                    Comparison(
                        pair.prompt, pair.text_a, pair.text_b, answer, policy_a=name, policy_b=name, comment=comment
                    )
                )
            return [None, html.status(f"Thank you. {self._count()}"), "", _HIDE]

        return store_answer
