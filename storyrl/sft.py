"""Supervised fine-tuning: teaches a causal LM the turn format, dialogue and plain prose from written stories.

The loss is the mean negative log-likelihood of the turns' tokens (tags included) and of the token that ends the story;
the prompt gives no loss. What it leaves out: packing, gradient accumulation, more than one device.
"""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from prompts.template import head_ids, turn_ids
from storyrl.errors import InputError, first_problem
from storyrl.files import read_jsonl, write_json
from storyrl.policy import Policy
from storyrl.story import Prompt, Story, Turn
from storyrl.tuning.episodes import Episode, collate
from storyrl.tuning.logprobs import action_logprobs
from storyrl.tuning.lora import merge, save_policy, with_lora

_STORY_FIELDS = {"id", "genre", "premise", "goal", "characters", "memory", "style", "turns", "reached_turn"}


@dataclass(frozen=True)
class SFTConfig:
    """Settings of a supervised run."""

    epochs: int = 3
    """Passes over the stories."""
    batch_stories: int = 8
    """Stories in one optimiser step."""
    learning_rate: float = 4e-4
    """Peak of AdamW's learning rate; it rises over the first 5 % of the steps and then falls linearly to a tenth."""
    rank: int = 16
    """Rank of the LoRA adapter."""
    heldout: int = 40
    """Stories kept out of training for the perplexity before and after."""
    max_tokens: int = 1024
    """Longer stories are cut at a turn."""
    drop_field: float = 0.1
    """Chance that a story is shown without its goal, and the same for its characters: prompts may lack them."""
    seed: int = 0


def read_stories(paths: Sequence[Path]) -> list[Story]:
    """Stories of JSON Lines files: `premise`, `goal`, `characters`, `turns[{kind, actor, text}]` a line.

    Raises:
        InputError: a record is not such a story, or there are none.
    """
    stories = []
    for path in paths:
        for number, row in read_jsonl(path):
            unknown = set(row) - _STORY_FIELDS
            if unknown:
                raise InputError(f"{path}:{number}: field '{min(unknown)}': unknown field")
            try:
                turns = tuple(Turn.model_validate(turn) for turn in row.pop("turns", ()))
                prompt = Prompt.model_validate({k: v for k, v in row.items() if k != "reached_turn"})
            except (ValidationError, TypeError) as error:
                reason = first_problem(error) if isinstance(error, ValidationError) else str(error)
                raise InputError(f"{path}:{number}: {reason}") from error
            if not turns:
                raise InputError(f"{path}:{number}: field 'turns': expected at least one turn")
            stories.append(Story(id=prompt.id, prompt=prompt, turns=turns))
    if not stories:
        raise InputError(f"{', '.join(map(str, paths))}: no stories found")
    return stories


def split(stories: Sequence[Story], heldout: int, seed: int) -> tuple[list[Story], list[Story]]:
    """Shuffle by `seed` and split into (training, held out).

    Raises:
        InputError: nothing would be left to train on.
    """
    if len(stories) <= heldout:
        raise InputError(f"{len(stories)} stories cannot hold out {heldout}; give more stories or a smaller --held-out")
    order = random.Random(seed).sample(list(stories), len(stories))
    return order[heldout:], order[:heldout]


def story_episode(story: Story, tokenizer: Any, max_tokens: int) -> Episode:
    """A written story as an episode: every token after the prompt is an action token."""
    ids = head_ids(story.prompt, tokenizer)
    start, ended = len(ids), True
    for turn in story.turns:
        more = turn_ids(turn, tokenizer)
        if len(ids) + len(more) >= max_tokens:
            ended = False
            break
        ids += more
    if ended:
        ids.append(tokenizer.eos_token_id)
    return Episode(ids=ids, is_action_token=[position >= start for position in range(len(ids))], truncated=not ended)


def perplexity(model: Any, tokenizer: Any, stories: Sequence[Story], max_tokens: int = 1024) -> float:
    """exp of the mean negative log-likelihood (nats) of a turn token, over all tokens of all stories."""
    episodes = sorted((story_episode(s, tokenizer, max_tokens) for s in stories), key=lambda e: len(e.ids))
    total, count = 0.0, 0
    with torch.inference_mode():
        for start in range(0, len(episodes), 8):
            batch = collate(episodes[start : start + 8], model.device)
            total -= action_logprobs(model, batch).sum().item()
            count += int(batch.is_action_token.sum())
    return math.exp(total / count)


def fine_tune(model: Any, tokenizer: Any, stories: Sequence[Story], config: SFTConfig) -> Iterator[dict[str, float]]:
    """Train the model's adapter in place; yields `step`, `steps`, `epoch`, `loss` (nats a token), `learning_rate`.

    Batches hold stories of like length, in an order shuffled anew each epoch.
    """
    rng = random.Random(config.seed)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=0.0)
    batches_per_epoch = math.ceil(len(stories) / config.batch_stories)
    steps, step = config.epochs * batches_per_epoch, 0
    for epoch in range(config.epochs):
        for episodes in _batches(stories, tokenizer, config, rng):
            rate = config.learning_rate * _schedule(step, steps)
            for group in optimiser.param_groups:
                group["lr"] = rate
            batch = collate(episodes, model.device)
            loss = -action_logprobs(model, batch).sum() / batch.is_action_token.sum()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimiser.step()
            optimiser.zero_grad()
            merge(model)
            step += 1
            yield {"step": step, "steps": steps, "epoch": epoch + 1, "loss": loss.item(), "learning_rate": rate}


def _schedule(step: int, steps: int) -> float:
    warm = max(1, steps // 20)
    return (step + 1) / warm if step < warm else 1.0 - 0.9 * (step - warm) / max(1, steps - warm)


def _batches(
    stories: Sequence[Story], tokenizer: Any, config: SFTConfig, rng: random.Random
) -> Iterator[list[Episode]]:
    episodes = [story_episode(_thin(story, config.drop_field, rng), tokenizer, config.max_tokens) for story in stories]
    episodes.sort(key=lambda episode: len(episode.ids) + rng.random() * 20)
    size = config.batch_stories
    batches = [episodes[start : start + size] for start in range(0, len(episodes), size)]
    rng.shuffle(batches)
    yield from batches


def _thin(story: Story, chance: float, rng: random.Random) -> Story:
    drop: dict[str, Any] = {}
    if rng.random() < chance:
        drop["goal"] = ""
    if rng.random() < chance:
        drop["characters"] = ()
    return story.model_copy(update={"prompt": story.prompt.model_copy(update=drop)}) if drop else story


def shipped_stories() -> list[Path]:
    """The story files that come with storyrl."""
    return [
        Path(str(resources.files("prompts").joinpath("stories", name))) for name in ("authored.jsonl", "plain.jsonl")
    ]


def run_sft(
    spec: str,
    files: Sequence[Path] | None,
    out: Path,
    config: SFTConfig,
    device: str,
    progress: Callable[..., None],
    say: Callable[[str], None],
) -> dict[str, float]:
    """Fine-tune `spec` on story files (None: the shipped ones) and write the adapter to `out`/policy.

    `out`/sft.json holds the held-out perplexity and ten samples on held-out prompts, before and after.

    Raises:
        InputError: bad stories, or `out` exists.
    """
    if out.exists():
        raise InputError(f"{out}: exists already; choose a new folder")
    train, heldout = split(read_stories(files or shipped_stories()), config.heldout, config.seed)
    policy = Policy.load(spec, device)
    result: dict[str, Any] = {"stories": len(train), "heldout_stories": len(heldout), "epochs": config.epochs}
    result["perplexity_before"] = perplexity(policy.model, policy.tokenizer, heldout, config.max_tokens)
    before = _samples(policy, heldout)
    model = with_lora(policy.model, config.rank, config.seed)
    for row in fine_tune(model, policy.tokenizer, train, config):
        progress(int(row["step"]), f"loss {row['loss']:.3f}", int(row["steps"]))
    save_policy(model, policy.tokenizer, out / "policy", spec, torch.bfloat16)
    result["perplexity_after"] = perplexity(model, policy.tokenizer, heldout, config.max_tokens)
    after = _samples(Policy.load(str(out), device), heldout)
    samples: list[dict[str, Any]] = [
        {"prompt": story.prompt.model_dump(mode="json"), "before": first, "after": second}
        for story, first, second in zip(heldout[:10], before, after, strict=True)
    ]
    write_json(out / "sft.json", {**result, "samples": samples})
    for sample in samples:
        say(f"\n--- {sample['prompt']['premise']}\nbefore: {sample['before']}\nafter: {sample['after']}")
    return result


def _samples(policy: Policy, stories: Sequence[Story]) -> list[str]:
    """One story of the policy for each of the first ten prompts, drawn at temperature 1."""
    return [rollout.story.text for rollout in policy.rollout([s.prompt for s in stories[:10]], 1, 128, seed=0)]
