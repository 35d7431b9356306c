"""Two tabs beside the manuscript: how the model writes (for all of an owner's stories), and what it reads."""

from typing import Any

import gradio as gr

from storyrl.agent import Agent
from ui import control
from ui.desk import Desk
from ui.goal import GoalMeter
from ui.session import Place
from ui.wiring import FREE_QUEUE, fields_of, friendly, panel, wire


class ReadingTabs:
    """Components and handlers of both; they are read anew whenever they come into view."""

    def __init__(self, agent: Agent, desk: Desk, meter: GoalMeter):
        self.agent, self.desk, self.meter = agent, desk, meter
        with gr.Tab("Model") as self.model_tab:
            self.form = panel("manner")
        with gr.Tab("Context") as self.context_tab:
            self.context = gr.HTML(elem_id="context")

    def connect(self, where: list[Any]) -> None:
        """Wire them; `where` are the components that tell where the writer is."""
        wire(self.form.input, self._set_manner, None, [self.form], mode="multiple")
        wire(self.model_tab.select, lambda: control.manner_form(self.manner()), None, [self.form])
        wire(self.context_tab.select, self._read_context, where, [self.context], FREE_QUEUE)

    def manner(self) -> control.Manner:
        """How the owner wants the model to write."""
        return control.Manner.of(self.desk.store.get_setting(control.SETTING))

    def _set_manner(self, event: gr.EventData) -> str:
        with friendly():
            manner = control.changed_manner(self.manner(), fields_of(event))
            self.desk.store.set_setting(control.SETTING, manner.model_dump())
            return control.manner_form(manner)

    def _read_context(self, place: Place | None, memory: object) -> str:
        with friendly():
            story = self.meter.aimed(self.desk.look(Place.now(place, memory)).tree.story)
            return control.context_view(self.agent.context(story, self.manner().sampling))
