"""Fixtures: a tiny causal language model made on the spot, the bundled policy, and a browser."""

import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext

    from storyrl.store import Store
    from ui.desk import Desk
    from ui.session import Place

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def word_tokenizer(eos: str = "<end>") -> Any:
    """A byte-level tokenizer without merges: 256 bytes and the end token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({character: i for i, character in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=eos, pad_token=eos)


def tiny_model(kind: str, vocabulary: int = 257, seed: int = 0) -> Any:
    """A random causal LM with two layers: "llama", "gpt2" or "qwen2"."""
    from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, Qwen2Config

    torch.manual_seed(seed)
    shape = {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 1024,
    }
    ends = {"eos_token_id": vocabulary - 1, "bos_token_id": None, "pad_token_id": vocabulary - 1}
    configs = {
        "llama": lambda: LlamaConfig(**shape, **ends),
        "qwen2": lambda: Qwen2Config(**shape, **ends),
        "gpt2": lambda: GPT2Config(vocab_size=vocabulary, n_embd=32, n_layer=2, n_head=4, n_positions=1024, **ends),
    }
    return AutoModelForCausalLM.from_config(configs[kind]()).float().eval()


@pytest.fixture(params=["llama", "gpt2", "qwen2"])
def tiny(request: pytest.FixtureRequest) -> Any:
    """Each of the tiny models in turn."""
    return tiny_model(request.param)


@pytest.fixture
def tiny_folder(tmp_path: Path) -> Any:
    """Makes a folder with a tiny model and its tokenizer."""

    def make(kind: str = "llama") -> Path:
        folder = tmp_path / f"tiny-{kind}"
        tiny_model(kind).save_pretrained(folder)
        word_tokenizer().save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def bundled() -> Any:
    """The default policy, as users get it."""
    from storyrl.policy import Policy

    return Policy.load()


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of a Chromium on this machine."""
    names = (os.environ.get("STORYRL_CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome")
    found = next((path for name in names if name and (path := shutil.which(name))), None)
    assert found, "no Chromium found; install it, or name one in STORYRL_CHROMIUM"
    return found


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> "tuple[str, Store]":
    """The address of a studio with the stand-in agent, and its store."""
    from storyrl.store import Store
    from ui.app import launch

    from .studio_page import FakeAgent, free_port, wait_for

    port, store = free_port(), Store(str(tmp_path_factory.mktemp("fake") / "studio.db"))
    options = {"host": "127.0.0.1", "port": port, "open_browser": False}
    threading.Thread(target=launch, args=(FakeAgent(word_tokenizer()), store), kwargs=options, daemon=True).start()
    wait_for(f"http://127.0.0.1:{port}")
    return f"http://127.0.0.1:{port}", store


@pytest.fixture(scope="module")
def browser(chromium: str) -> "Iterator[Browser]":
    """A Chromium without a window."""
    from playwright.sync_api import sync_playwright

    from .studio_page import FLAGS

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def context(browser: "Browser") -> "Iterator[BrowserContext]":
    """A fresh profile; the test fails when a page asks any other host."""
    from playwright.sync_api import expect

    from .studio_page import WAIT

    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(WAIT)
    expect.set_options(timeout=30_000)
    local, foreign = ("http://127.0.0.1:", "data:", "blob:"), []
    context.on("request", lambda request: None if request.url.startswith(local) else foreign.append(request.url))
    yield context
    context.close()
    assert foreign == [], "the page asked other hosts"


@pytest.fixture
def store(tmp_path: Path) -> "Iterator[Store]":
    """An empty store, as its owner without accounts sees it."""
    from storyrl.store import OWNER, Store

    store = Store(str(tmp_path / "studio.db"))
    yield store.for_owner(OWNER)
    store.close()


@pytest.fixture
def desk(store: "Store") -> "Desk":
    """The steps of the studio on that store."""
    from ui.desk import Desk

    return Desk(store)


@pytest.fixture
def place(desk: "Desk") -> "Place":
    """In a story of three turns: One. Two. Three."""
    from ui.session import Place, start

    place = desk.start(start("Mira finds a boat.", "Mira sails.", "Mira, Tom"), Place())
    for text in ("One.", "Two.", "Three."):
        place = desk.do(place, "add", {"kind": "narrate", "text": text})
    return place
