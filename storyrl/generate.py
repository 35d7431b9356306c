"""Batch generation: stories for many prompts into a JSON Lines file."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rewards.base import StoryText
from rewards.composite import Scored
from storyrl.agent import Agent
from storyrl.errors import InputError
from storyrl.story import Prompt, Story


def generate(
    agent: Agent,
    prompts: Sequence[Prompt],
    out: Path,
    *,
    turns: int,
    candidates: int,
    seed: int,
    batch_size: int,
    progress: Callable[[int], None] = lambda done: None,
) -> int:
    """Write one story for each prompt; returns how many.

    Whole batches go into `OUT.partial`, which becomes OUT at the end: an interrupted run leaves what was done there.

    Raises:
        InputError: the file cannot be written.
    """
    partial = out.with_name(out.name + ".partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w", encoding="utf-8") as handle:
            for start in range(0, len(prompts), batch_size):
                stories = [Story(id=prompt.id, prompt=prompt) for prompt in prompts[start : start + batch_size]]
                stories = agent.write_all(stories, turns, candidates, seed)
                scored = agent.reward.score([StoryText.of(story) for story in stories])
                for story, result in zip(stories, scored, strict=True):
                    tokens = agent.policy.count_tokens(story.turns)
                    record = story_record(story, result, agent.policy_name, seed, tokens)
                    handle.write(json.dumps(record, ensure_ascii=False) + "\n")
                handle.flush()
                progress(start + len(stories))
        os.replace(partial, out)
    except OSError as error:
        raise InputError(f"{out}: cannot write ({error.strerror}); free some space or choose another place") from error
    return len(prompts)


def story_record(story: Story, scored: Scored, policy: str, seed: int, tokens: int) -> dict[str, Any]:
    """A story as one line of `storyrl generate`."""
    return {
        "id": story.id,
        "prompt": prompt_record(story.prompt),
        "turns": [{"kind": turn.kind.value, "actor": turn.actor, "text": turn.text} for turn in story.turns],
        "text": story.text,
        "scores": {name: round(score, 4) for name, score in scored.scores.items()},
        "reward": round(scored.reward, 4),
        "policy": policy,
        "seed": seed,
        "tokens": tokens,
    }


def prompt_record(prompt: Prompt) -> dict[str, Any]:
    """A prompt without the fields that are as they would be anyway."""
    return {"id": prompt.id, **prompt.model_dump(mode="json", exclude_defaults=True)}
