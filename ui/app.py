"""The studio as a gradio page: the tabs put together, and the server."""

from pathlib import Path

import gradio as gr

from storyrl.agent import Agent
from storyrl.errors import InputError
from storyrl.store import Store
from ui.rate import RateTab
from ui.write import WriteTab

_FONTS = ["system-ui", "sans-serif"]


def build(agent: Agent, store: Store) -> gr.Blocks:
    """The page."""
    with gr.Blocks(title="storyrl studio", analytics_enabled=False) as page:
        # The secret only keeps the value readable after a restart of the server; a story id is no secret.
        story_id = gr.BrowserState(None, storage_key="storyrl-story", secret="storyrl")
        gr.Markdown("# storyrl studio")
        with gr.Tab("Write"):
            write = WriteTab(agent, store, story_id)
        with gr.Tab("Rate"):
            RateTab(agent, store)
        write.connect_reload(page)
    return page


def launch(agent: Agent, store: Store, host: str, port: int, open_browser: bool) -> None:
    """Serve the page until interrupted.

    Raises:
        InputError: the port is taken or the host cannot be bound.
    """
    page = build(agent, store)
    try:
        page.queue().launch(
            server_name=host,
            server_port=port,
            inbrowser=open_browser,
            theme=gr.themes.Base(font=_FONTS, font_mono=["monospace"]),
            css=Path(__file__).with_name("studio.css").read_text("utf-8"),
            footer_links=[],
            share=False,
            show_error=True,
            ssr_mode=False,
        )
    except OSError as error:
        raise InputError(
            f"--host {host} --port {port}: cannot listen there ({error}); try --port {port + 1}"
        ) from error
