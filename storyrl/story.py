"""The nouns of the product: Prompt, LoreEntry, Turn, Story. Plain validated data, no model and no file handling.

A Prompt is what a story starts from; its lore is what the model is told once the story speaks of it. A Turn is one
action of the agent (or of the writer): it narrates, lets somebody say something, or lets somebody do something. A
Story is a Prompt and its Turns.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    field_validator,
    model_serializer,
    model_validator,
)

Line = Annotated[str, StringConstraints(strip_whitespace=True, max_length=4000)]
Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=60, pattern=r"^[^\[\]\n]+$")]
Key = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)]


class Kind(StrEnum):
    """What a turn does; the action space of the policy."""

    NARRATE = "narrate"
    SAY = "say"
    DO = "do"


class Record(BaseModel):
    """Immutable, and strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class LoreEntry(Record):
    """A fact of the story's world that the model reads when one of the keys was mentioned lately."""

    name: Annotated[str, StringConstraints(strip_whitespace=True, max_length=200)] = ""
    keys: tuple[Key, ...] = Field((), max_length=50, description="words or phrases, matched whole and in any case")
    text: Annotated[Line, Field(min_length=1)]
    always: bool = Field(False, description="in the context whether a key was mentioned or not")
    enabled: bool = True


class Prompt(Record):
    """What a story starts from."""

    id: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)] = "prompt"
    premise: Annotated[Line, Field(min_length=1, description="who, where, what is at stake")]
    goal: Line = Field("", description="an event, e.g. 'Mira forgives her brother.'; empty: no goal")
    characters: tuple[Name, ...] = Field((), max_length=20)
    memory: Line = Field("", description="facts that always stay in the context")
    style: Line = Field("", description="e.g. 'plain, first person'")
    genre: Line = ""
    note: Line = Field("", description="the author's note: a wish for what comes next, kept close to the end")
    note_depth: int = Field(3, ge=0, le=50, description="how many turns stand between the note and the next turn")
    lore: tuple[LoreEntry, ...] = Field((), max_length=500)

    @model_serializer(mode="wrap")
    def _leave_out_what_is_not_set(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A prompt without note and lore is written as it was before there were any, so stored ones stay equal."""
        fields = type(self).model_fields
        unset = {name for name in ("note", "note_depth", "lore") if getattr(self, name) == fields[name].default}
        return {name: value for name, value in handler(self).items() if name not in unset}


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
