"""The nouns of the product: Prompt, Turn, Story. Plain validated data, no model and no file handling.

A Prompt is what a story starts from. A Turn is one action of the agent (or of the writer): it narrates, lets somebody
say something, or lets somebody do something. A Story is a Prompt and its Turns.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

Line = Annotated[str, StringConstraints(strip_whitespace=True, max_length=4000)]
Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=60, pattern=r"^[^\[\]\n]+$")]


class Kind(StrEnum):
    """What a turn does; the action space of the policy."""

    NARRATE = "narrate"
    SAY = "say"
    DO = "do"


class Record(BaseModel):
    """Immutable, and strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Prompt(Record):
    """What a story starts from."""

    id: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)] = "prompt"
    premise: Annotated[Line, Field(min_length=1, description="who, where, what is at stake")]
    goal: Line = Field("", description="an event, e.g. 'Mira forgives her brother.'; empty: no goal")
    characters: tuple[Name, ...] = Field((), max_length=20)
    memory: Line = Field("", description="facts that always stay in the context")
    style: Line = Field("", description="e.g. 'plain, first person'")
    genre: Line = ""


class Turn(Record):
    """One action of a story."""

    kind: Kind
    actor: Name | None = Field(None, description="who says or does it; None for narration")
    text: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=20_000)]
    author: Literal["writer", "policy", "edited"] = "policy"

    @field_validator("text")
    @classmethod
    def _one_paragraph(cls, text: str) -> str:
        return " ".join(text.split())

    @model_validator(mode="after")
    def _actor_fits_kind(self) -> "Turn":
        if self.kind is Kind.NARRATE and self.actor is not None:
            raise ValueError("a narrate turn has no actor")
        if self.kind is not Kind.NARRATE and self.actor is None:
            raise ValueError(f"a {self.kind} turn needs an actor")
        return self

    def prose(self) -> str:
        """The turn as a paragraph of a printed story; speech gets its quotation marks and its speaker."""
        if self.kind is not Kind.SAY:
            return self.text
        words = self.text.strip('"“”')
        if words.endswith(".") and not words.endswith(".."):
            words = words[:-1] + ","
        elif not words.endswith((",", "!", "?", "…", "-", "—", ".")):
            words += ","
        return f'"{words}" said {self.actor}.'


def prose(turns: Sequence[Turn]) -> str:
    """Turns as running text, a paragraph each."""
    return "\n\n".join(turn.prose() for turn in turns)


class Story(Record):
    """A prompt and the turns written so far, in order."""

    id: str
    prompt: Prompt
    turns: tuple[Turn, ...] = ()

    @property
    def text(self) -> str:
        """The story as prose, without the prompt."""
        return prose(self.turns)

    def with_turns(self, *turns: Turn) -> "Story":
        """A copy with `turns` added at the end."""
        return self.model_copy(update={"turns": self.turns + turns})
