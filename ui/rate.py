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
from storyrl.story import Prompt
from ui import session as steps
from ui.write import MODEL_QUEUE, friendly

_TURNS = 4
_BUTTONS = {
    Answer.A: "A is better",
    Answer.B: "B is better",
    Answer.TIE: "About the same",
    Answer.BOTH_BAD: "Both are bad",
}


@dataclass(frozen=True)
class Pair:
    """Two stories in the order in which they are shown."""

    prompt: Prompt
    text_a: str
    text_b: str


class RateTab:
    """Components and handlers of the tab."""

    def __init__(self, agent: Agent, store: Store):
        self.agent, self.store = agent, store
        self.prompts = read_prompts("starter:train")
        self.pair = gr.State(None)
        gr.Markdown("Two stories for one prompt. Which would you rather read on? You are not told how they were made.")
        self.new = gr.Button("New pair", variant="primary", elem_id="new-pair")
        self.status = gr.Markdown(self._count(), elem_id="rate-status")
        self.about = gr.HTML()
        with gr.Row():
            self.left, self.right = gr.HTML(elem_id="story-a"), gr.HTML(elem_id="story-b")
        self.comment = gr.Textbox(label="Comment (optional)", lines=1)
        with gr.Row():
            self.answers = {
                answer: gr.Button(text, interactive=False, elem_id=f"answer-{answer.value}", min_width=130)
                for answer, text in _BUTTONS.items()
            }
        self._wire()

    def _wire(self) -> None:
        outputs = [self.pair, self.status, self.about, self.left, self.right, *self.answers.values()]
        self.new.click(
            self._draw,
            None,
            outputs,
            concurrency_id=MODEL_QUEUE,
            concurrency_limit=1,
            trigger_mode="once",
            api_visibility="private",
        )
        for answer, button in self.answers.items():
            button.click(
                self._answerer(answer),
                [self.pair, self.comment],
                [self.pair, self.status, self.comment, *self.answers.values()],
                trigger_mode="once",
                api_visibility="private",
            )

    def _count(self) -> str:
        return f"Comparisons so far: {self.store.counts()['comparisons']}"

    def _draw(self) -> Iterator[list[Any]]:
        buttons = [gr.update(interactive=False)] * len(self.answers)
        prompt = random.choice(self.prompts)
        about = steps.about(prompt)
        texts: list[str] = []
        for number in (1, 2):
            yield [None, f"Writing story {number} of 2 ...", about, "", "", *buttons]
            with friendly():
                texts.append(self.agent.write(prompt, _TURNS, secrets.randbits(31)).text)
        random.shuffle(texts)
        buttons = [gr.update(interactive=True)] * len(self.answers)
        stories = [steps.story_html(text) for text in texts]
        yield [Pair(prompt, *texts), self._count(), about, *stories, *buttons]

    def _answerer(self, answer: Answer) -> Any:
        def store_answer(pair: Pair | None, comment: str) -> list[Any]:
            if pair is not None:
                name = self.agent.policy_name
                with friendly():
                    self.store.add_comparison(
                        Comparison(
                            pair.prompt, pair.text_a, pair.text_b, answer, policy_a=name, policy_b=name, comment=comment
                        )
                    )
            buttons = [gr.update(interactive=False)] * len(self.answers)
            return [None, f"Thank you. {self._count()}", "", *buttons]

        return store_answer
