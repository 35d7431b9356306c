"""What a scorer is, and the calling convention it shares with TRL."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from prompts.template import parse_turns
from storyrl.errors import InputError
from storyrl.files import read_jsonl
from storyrl.story import Story, prose


@dataclass(frozen=True)
class StoryText:
    """What scorers look at: the text (without the prompt), what it was asked to be, and whether it is all of it."""

    text: str
    goal: str = ""
    premise: str = ""
    finished: bool = True

    @classmethod
    def of(cls, story: Story) -> "StoryText":
        """A story as the scorers see it."""
        return cls(story.text, story.prompt.goal, story.prompt.premise)


@runtime_checkable
class Scorer(Protocol):
    """Gives each story one number, in a unit that its docstring states; subclasses get the TRL call for free."""

    name: str

    @property
    def __name__(self) -> str:
        """TRL logs a reward function under this name."""
        return self.name

    def score(self, stories: Sequence[StoryText]) -> list[float]:
        """One score a story; a story's score does not depend on the others in the batch."""
        ...

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Sequence[Any]) -> list[float]:
        """The scorer as a TRL reward function.

        Args:
            prompts: B prompts; not looked at.
            completions: B texts, in the turn format or as prose, or B conversations (lists of messages).
            columns: the data set's other columns; `goal` and `premise` are used.
        """
        blank = [""] * len(completions)
        goals, premises = columns.get("goal", blank), columns.get("premise", blank)
        texts = [completion_text(completion) for completion in completions]
        return self.score([StoryText(*row) for row in zip(texts, goals, premises, strict=True)])


def completion_text(completion: Any) -> str:
    """A TRL completion as prose."""
    if isinstance(completion, list):
        completion = "\n".join(str(message["content"]) for message in completion)
    if not isinstance(completion, str):
        raise InputError(f"completion: expected text or a list of messages, got {type(completion).__name__}")
    return prose(parse_turns(completion))


def read_story_texts(path: Path) -> tuple[list[dict[str, Any]], list[StoryText]]:
    """Rows `{id?, premise?, goal?, text}` of a JSON Lines file, or stories of `storyrl generate`, and their texts.

    Raises:
        InputError: a field is missing or no text, or the file holds no stories.
    """
    rows, texts = [], []
    for number, row in read_jsonl(path):
        nested = row.get("prompt")
        prompt: dict[str, Any] = nested if isinstance(nested, dict) else {}
        values = {name: row.get(name, prompt.get(name, "")) for name in ("text", "goal", "premise")}
        for name, value in values.items():
            if not isinstance(value, str):
                raise InputError(f"{path}:{number}: field '{name}': expected a text, got {value!r:.40}")
        if not values["text"].strip():
            raise InputError(f"{path}:{number}: field 'text': required, but missing or empty")
        rows.append(row)
        texts.append(StoryText(**values))
    if not rows:
        raise InputError(f"{path}: holds no stories")
    return rows, texts
