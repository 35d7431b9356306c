"""What the model reads: the parts of the context, note and lore, against the real tokenizers' ids."""

import math
from typing import Any

import pytest

from prompts.context import Context, context_ids, context_parts, first_turn
from prompts.template import format_prompt, format_turn, head_ids, head_text
from storyrl.story import Kind, LoreEntry, Prompt, Story, Turn

from .conftest import word_tokenizer

_CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_PROMPT = Prompt(
    premise="Mira keeps the lighthouse — a café, once.",
    goal="Mira forgives her brother.",
    characters=("Mira", "Tom"),
    memory="The lamp is broken.",
    style="plain",
)
_TURNS = tuple(
    Turn(kind=Kind.SAY, actor="Tom", text=f"Turn {i}: naïve words…")
    if i % 3 == 0
    else Turn(kind=Kind.NARRATE, text=f"Turn {i} is told.")
    for i in range(30)
)


def _merging_tokenizer(chat: bool) -> Any:
    """A trained byte-level BPE whose merges run across words and line breaks, the hard case for finding parts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    specials = ["<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, special_tokens=specials)
    texts = [f"{format_prompt(_PROMPT)}\n\nStory:\n", *(format_turn(turn) + "\n" for turn in _TURNS)] * 3
    tokenizer.train_from_iterator(texts, trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>")
    if chat:
        made.chat_template = _CHATML
    return made


def _beginning_tokenizer() -> Any:
    """The byte tokenizer with a token that opens every text, as Llama's has."""
    from tokenizers import processors

    made = word_tokenizer()
    end = [("<end>", 256)]
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(single="<end> $A", special_tokens=end)
    return made


_TOKENIZERS = {
    "bytes": word_tokenizer,
    "beginning": _beginning_tokenizer,
    "merges": lambda: _merging_tokenizer(chat=False),
    "chat": lambda: _merging_tokenizer(chat=True),
}


@pytest.fixture(params=_TOKENIZERS)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return _TOKENIZERS[request.param]()


def _before_there_were_parts(story: Story, tokenizer: Any, budget: int) -> list[int]:
    """The algorithm as it was before note and lore, the golden reference; since then turns are left out by eighths."""
    body = format_prompt(story.prompt)
    instruction = "Write a story in turns, one a line: [narrate] what happens, [say NAME] speech, [do NAME] action."
    if getattr(tokenizer, "chat_template", None):
        messages = [{"role": "system", "content": instruction}, {"role": "user", "content": body}]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        head = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    else:
        head = list(tokenizer(f"{instruction}\n\n{body}\n\nStory:\n", add_special_tokens=True)["input_ids"])
    room = budget - len(head)
    rows = [list(tokenizer(format_turn(turn) + "\n", add_special_tokens=False)["input_ids"]) for turn in story.turns]
    kept, excess = rows, sum(map(len, rows)) - room
    for out in (math.ceil(excess / max(room // 8, 1)) * max(room // 8, 1), excess):
        kept = list(rows)
        while kept and out > 0:
            out -= len(kept.pop(0))
        if kept:
            break
    return (head + [token for ids in kept for token in ids])[-budget:]


def test_without_note_and_lore_nothing_changed(tokenizer: Any) -> None:
    for prompt in (_PROMPT, Prompt(premise="A door."), Prompt(premise="Two\nlines.", memory="a\n\nb", note_depth=7)):
        for count in (0, 1, 30):
            story = Story(id="s", prompt=prompt, turns=_TURNS[:count])
            head = len(head_ids(prompt, tokenizer))
            for budget in (1, 7, head - 3, head, head + 1, head + 40, head + 300, 100_000):
                assert context_ids(story, tokenizer, budget) == _before_there_were_parts(story, tokenizer, budget)


def _lore_story(**fields: Any) -> Story:
    return Story(id="s", prompt=_PROMPT.model_copy(update=fields), turns=_TURNS)


def _kinds(context: Context) -> list[str]:
    return [part.kind for part in context.parts if part.included]


def test_the_parts_are_exactly_what_the_model_gets(tokenizer: Any) -> None:
    lore = (
        LoreEntry(name="The lamp", keys=("lamp",), text="It burns\nwhale oil."),
        LoreEntry(text="Salt.", always=True),
    )
    story = _lore_story(lore=lore, note="Make it\n tense.", note_depth=2)
    context = context_parts(story, tokenizer, 2000)
    memory = f"{_PROMPT.memory}\nMemory: Salt."
    head = head_text(format_prompt(_PROMPT.model_copy(update={"memory": memory})), tokenizer)
    special = not getattr(tokenizer, "chat_template", None)
    lines = [format_turn(turn) + "\n" for turn in _TURNS]
    rows = [head, *lines[:-2], "(Note: Make it tense.)\n", *lines[-2:]]
    expected = [
        t for i, row in enumerate(rows) for t in tokenizer(row, add_special_tokens=special and i == 0)["input_ids"]
    ]
    assert context.ids == context_ids(story, tokenizer, 2000) == expected
    assert sum(part.tokens for part in context.parts if part.included) == len(expected) <= 2000
    assert "".join(part.text for part in context.parts if part.included) == "".join(rows)
    opening = ["instruction", "premise", "goal", "characters", "memory", "lore", "style", "instruction"]
    assert _kinds(context) == [*opening, *["turn"] * 28, "note", "turn", "turn"]
    assert [part.why for part in context.parts if part.kind == "lore"] == ["always in"]


def test_every_token_lies_in_its_part() -> None:
    tokenizer = word_tokenizer()
    story = _lore_story(lore=(LoreEntry(text="Salt.", always=True),), note="Slow.")
    for part in context_parts(story, tokenizer, 2000).parts:
        assert tokenizer.decode(part.ids) == part.text


@pytest.mark.parametrize(
    ("keys", "words", "why"),
    [
        (("Rope",), "Tom threw the ROPE.", "key 'Rope'"),
        (("rope",), "Tom threw the ropes.", None),
        (("old  boat",), "An old boat lay there.", "key 'old  boat'"),
        (("oar", "boat"), "An old boat lay there.", "key 'boat'"),
        (("a.b",), "axb", None),
        (("C++",), "He knew C++ well.", "key 'C++'"),
        (("Strasse",), "In the Straße.", "key 'Strasse'"),
        ((), "rope", None),
    ],
)
def test_keys_are_whole_words_in_any_case(keys: tuple[str, ...], words: str, why: str | None) -> None:
    entry = LoreEntry(keys=keys, text="Known.")
    story = Story(id="s", prompt=Prompt(premise="A.", lore=(entry,)), turns=(Turn(kind=Kind.NARRATE, text=words),))
    found = [part.why for part in context_parts(story, word_tokenizer(), 4000).parts if part.kind == "lore"]
    assert found == ([why] if why else [])


def test_keys_are_looked_for_in_the_latest_turns_only() -> None:
    entry = LoreEntry(keys=("Mira",), text="Mira is nine.")
    quiet = Turn(kind=Kind.NARRATE, text="Rain.")
    named = Turn(kind=Kind.SAY, actor="Mira", text="Yes.")
    for before, after, found in ((named, 7, True), (named, 8, False), (quiet, 6, False)):
        story = Story(id="s", prompt=Prompt(premise="A.", lore=(entry,)), turns=(before, *[quiet] * after))
        assert ("lore" in _kinds(context_parts(story, word_tokenizer(), 4000))) is found
    story = Story(id="s", prompt=Prompt(premise="Mira wakes.", lore=(entry,)))
    assert "lore" in _kinds(context_parts(story, word_tokenizer(), 4000))
    off = entry.model_copy(update={"enabled": False, "always": True})
    assert "lore" not in _kinds(context_parts(_lore_story(lore=(off,)), word_tokenizer(), 4000))


def test_lore_takes_a_quarter_at_most_and_says_what_had_no_room() -> None:
    tokenizer = word_tokenizer()  # a byte is a token; "Memory: " and the line break make 9
    lore = tuple(
        LoreEntry(name=n, text=n * size, always=True) for n, size in (("a", 91), ("b", 92), ("c", 91), ("d", 1))
    )
    context = context_parts(_lore_story(lore=lore), tokenizer, 800)  # a quarter is 200
    found = [(part.label, part.tokens, part.included) for part in context.parts if part.kind == "lore"]
    assert found == [("a", 100, True), ("c", 100, True), ("b", 101, False), ("d", 10, False)]
    assert next(part.why for part in context.parts if part.label == "b") == "always in, but no room"
    assert len(context.ids) <= 800
    small = context_parts(_lore_story(lore=lore), tokenizer, len(head_ids(_PROMPT, tokenizer)) + 50)
    assert small.ids == context_ids(_lore_story(lore=lore[3:]), tokenizer, small.budget)  # the prompt stays whole


def test_the_note_stands_before_the_last_turns() -> None:
    tokenizer = word_tokenizer()
    for depth, after in ((0, 0), (1, 1), (3, 3), (50, 30)):
        kinds = _kinds(context_parts(_lore_story(note="Slow.", note_depth=depth), tokenizer, 4000))
        assert len(kinds) - 1 - kinds.index("note") == after
    cut = context_parts(_lore_story(note="Slow."), tokenizer, len(head_ids(_PROMPT, tokenizer)) + 5)
    assert [(part.included, part.why) for part in cut.parts if part.kind == "note"] == [(False, "no room")]


def test_what_had_no_room_is_shown_in_its_place(tokenizer: Any) -> None:
    story = _lore_story(note="Slow.")
    head = len(head_ids(_PROMPT, tokenizer))
    context = context_parts(story, tokenizer, head + 60)
    turns = [part for part in context.parts if part.kind == "turn"]
    assert [part.label for part in turns] == [f"Turn {i}" for i in range(1, 31)]
    assert [part.included for part in turns] == sorted(part.included for part in turns)
    assert not turns[0].included
    assert turns[0].tokens > 0
    assert turns[-1].included
    tight = context_parts(story, tokenizer, head - 4)
    assert len(tight.ids) == head - 4
    assert tight.ids == head_ids(_PROMPT, tokenizer)[4:]
    assert tight.parts[0].why == "its beginning had no room"
    assert tight.parts[0].tokens + 4 == context.parts[0].tokens


def test_a_template_that_rewrites_the_prompt_is_one_part() -> None:
    tokenizer = word_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] | upper }}\n{% endfor %}"
    context = context_parts(_lore_story(lore=(LoreEntry(text="Salt.", always=True),)), tokenizer, 4000)
    assert context.parts[0].label == "Instruction and prompt"
    assert context.parts[0].text.endswith("MEMORY: SALT.\nSTYLE: PLAIN\n")
    assert tokenizer.decode(context.ids).startswith(context.parts[0].text)


def test_five_hundred_entries_are_fast() -> None:
    import time

    lore = tuple(LoreEntry(keys=(f"key{i}", f"other {i}"), text="x") for i in range(500))
    story, tokenizer = _lore_story(lore=lore), word_tokenizer()
    start = time.process_time()
    context_ids(story, tokenizer, 4000)
    assert time.process_time() - start < 0.5


def test_a_long_storys_context_seldom_begins_elsewhere() -> None:
    tokens, starts = [40] * 400, set()
    for count in range(401):
        first = first_turn(tokens[:count], 8000)
        assert sum(tokens[first:count]) <= 8000
        assert count <= 200 or sum(tokens[first:count]) >= 8000 - 1000 - 40
        starts.add(first)
    assert starts == {0, *range(25, 201, 25)}
    assert first_turn([], 100) == 0
    assert first_turn([50, 90], 100) == 1  # by steps of 12: 48 of the first, so all of it
    assert first_turn([90, 95], 100) == 1  # by steps both would go
    assert first_turn([50, 120], 100) == 2  # the last turn alone is too long
    assert first_turn([50], -3) == 1
