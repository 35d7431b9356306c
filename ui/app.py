"""The studio as a gradio page: the tabs put together, how it looks, and the server."""

import logging
import os
import threading
from collections.abc import Callable
from html import escape
from pathlib import Path

import gradio as gr

from storyrl.agent import Agent
from storyrl.console import say
from storyrl.errors import InputError
from storyrl.policies import Policies
from storyrl.store import Store
from storyrl.story import Prompt, Story
from ui.agents import OwnAgent
from ui.desk import Desk
from ui.library import LibraryTab
from ui.pen import Pen, Rank
from ui.rate import RateTab
from ui.tune import TuneTab
from ui.users import SIGN_IN, Door, is_loopback, writer
from ui.wiring import FREE_QUEUE, as_writer, window, wire
from ui.write import WriteTab

_FONTS = ["system-ui", "sans-serif"]
_HERE = Path(__file__).parent
_THREADS = 200  # writers who wait for the model take one each
_OPEN = (
    "other machines can reach this studio, and there are no accounts: whoever opens it reads and changes all stories. "
    "Give users passwords (storyrl studio-password NAME --auth-file FILE) and start it with --auth-file FILE."
)


def build(agent: Agent, store: Store, accounts: bool = False) -> gr.Blocks:
    """The page; with accounts it says who is signed in."""
    mine, pen = store.for_owner(writer.get), Pen()
    threading.Thread(target=_warm_up, args=(agent, pen), daemon=True).start()
    policies = Policies(mine, agent.policy_name)
    agent = own = OwnAgent(agent, policies)
    with gr.Blocks(title="storyrl studio", analytics_enabled=False) as page:
        # The secret only keeps the value readable after a restart of the server; where a writer is, is no secret.
        memory = gr.BrowserState(None, storage_key="storyrl-place", secret="storyrl")
        gr.HTML('<h1 class="wordmark">storyrl <span>studio</span></h1>')
        if accounts:
            wire(page.load, _signed_in, None, [gr.HTML(elem_id="signed-in")], FREE_QUEUE)
        with gr.Tabs(elem_id="rooms", overflow_behavior="wrap") as rooms:
            with gr.Tab("Write", id="write"):
                write = WriteTab(agent, Desk(mine), memory, pen)
            with gr.Tab("Library", id="library") as shelf:
                library = LibraryTab(mine, write, rooms)
            with gr.Tab("Rate", id="rate") as pairs:
                rate = RateTab(mine, write)
            with gr.Tab("Tune", id="tune") as bench:
                tune = TuneTab(own, policies, pen)
        write.connect_reload(page)
        page.unload(as_writer(_leaver(pen)))
        library.connect(shelf, page)
        rate.connect(pairs, page)
        tune.connect(bench, page)
    return page


def _warm_up(agent: Agent, pen: Pen) -> None:
    """Do what the model does once, such as to lay its weights out for reading, before somebody has to wait for it."""
    story = Story(id="warm-up", prompt=Prompt(premise="A story begins."))
    for _ in pen.run("warm-up", lambda _: agent.read_ahead(story), "ahead", Rank.IDLE):
        pass


def _leaver(pen: Pen) -> Callable[[gr.Request], None]:
    """Ends the jobs of a window that is closed. gradio ends the handlers, too, unless it is just sending them news."""

    def leave(request: gr.Request) -> None:
        pen.leave(window(request))

    return leave


def _signed_in() -> str:
    return f'<p>Signed in as <b>{escape(writer.get())}</b> <a href="logout">Sign out</a></p>'


def _theme() -> gr.themes.Base:
    theme = gr.themes.Base(
        primary_hue="teal", neutral_hue="stone", radius_size="md", font=_FONTS, font_mono=["monospace"]
    )
    return theme.set(
        body_background_fill="#faf8f4",
        body_background_fill_dark="#171614",
        background_fill_primary="#faf8f4",
        background_fill_primary_dark="#171614",
        panel_background_fill="transparent",
        panel_background_fill_dark="transparent",
        body_text_color_subdued="#6b645c",
        body_text_color_subdued_dark="#a39d94",
        block_background_fill="#fffdf9",
        block_background_fill_dark="#201e1c",
        block_title_text_color="#57514a",
        block_title_text_color_dark="#c9c3ba",
        block_title_text_size="*text_sm",
        input_background_fill="#ffffff",
        input_background_fill_dark="#171614",
        input_border_width="1px",
        checkbox_border_color="#78716c",
        checkbox_border_color_dark="#8d867d",
        checkbox_border_color_hover="#78716c",
        checkbox_border_color_hover_dark="#8d867d",
        input_placeholder_color="#78716c",
        input_placeholder_color_dark="#8d867d",
        button_primary_background_fill="#0f766e",
        button_primary_background_fill_hover="#115e59",
        button_primary_background_fill_dark="#0f766e",
        button_primary_background_fill_hover_dark="#0d7f76",
        button_secondary_background_fill="#efebe3",
        button_secondary_background_fill_hover="#e4dfd4",
        button_secondary_background_fill_dark="#35322e",
        button_secondary_background_fill_hover_dark="#45413c",
        button_large_text_size="*text_md",
        button_large_padding="9px 18px",
    )


def _is_news(record: logging.LogRecord) -> bool:
    """False for gradio's traceback when a page asks this server for events of the one before: it then loads anew."""
    error = record.exc_info[1] if record.exc_info else None
    return getattr(error.__cause__ if error else None, "status_code", None) != 404


def launch(agent: Agent, store: Store, host: str, port: int, open_browser: bool, door: Door | None = None) -> None:
    """Serve the page until interrupted: to those whom the door admits, or without one to whoever can reach it.

    Raises:
        InputError: the port is taken or the host cannot be bound.
    """
    no_proxy = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    os.environ["no_proxy"] = f"{no_proxy},localhost,127.0.0.1,{host}"  # gradio asks its own address once as it starts
    # gradio sums up all events so far with pandas after each one, unless this is a large number
    os.environ.setdefault("GRADIO_ANALYTICS_CACHE_FREQUENCY", "1000000000")
    page = build(agent, store, accounts=door is not None)
    if door is None and not is_loopback(host):
        say(f"WARNING: {_OPEN}")
    try:
        _, url, _ = page.queue().launch(
            server_name=host,
            server_port=port,
            auth=door.admits if door else None,
            auth_message=SIGN_IN,
            max_threads=_THREADS,
            run_history=False,
            inbrowser=open_browser,
            theme=_theme(),
            css=(_HERE / "studio.css").read_text("utf-8"),
            head=f"<script>{(_HERE / 'studio.js').read_text('utf-8')}</script>",
            footer_links=[],
            share=False,
            show_error=True,
            ssr_mode=False,
            quiet=True,
            prevent_thread_lock=True,
        )
    except OSError as error:
        raise InputError(
            f"--host {host} --port {port}: cannot listen there (the port is taken, or the host is not this machine); "
            "try another --port"
        ) from error
    logging.getLogger("uvicorn.error").addFilter(_is_news)
    say(f"the studio is at {url} (Ctrl+C ends it)")
    page.block_thread()
