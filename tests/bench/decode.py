"""Tokens per second of our sampler and of transformers' `generate`, side by side: `make bench`.

Same model (SmolLM2-135M), same prompts, temperature 1, top-p 0.9, repetition penalty 1.1, 64 new tokens each. They
alternate, and the median of three rounds counts. "ours" decodes as `storyrl generate` and the studio do (weights read
as float16 where rows are few), "exact" as rollouts of tuning (all float32). transformers runs its own layers, as its
users have them. Ends with one line of key=value figures.
"""

import statistics
import time
from typing import Any

import torch

from prompts.readers import read_prompts
from prompts.template import head_ids
from storyrl import packed
from storyrl.choosing import Sampling
from storyrl.decoding import sample
from storyrl.policy import Policy

_TOKENS, _ROUNDS = 64, 3
_SHAPES = ((1, 1), (1, 8), (16, 1), (64, 1), (8, 8))  # prompts, samples of each
_SAMPLING = Sampling(_TOKENS, top_p=0.9, repetition_penalty=1.1)


def main() -> None:
    """Measure at several batch sizes."""
    policy = Policy.load("smollm2")
    figures: dict[str, float] = {}
    for prompts, samples in _SHAPES:
        contexts = [head_ids(prompt, policy.tokenizer) for prompt in read_prompts("starter:train")[:prompts]]
        rounds: dict[str, list[float]] = {"ours": [], "exact": [], "transformers": []}
        for _ in range(_ROUNDS):
            rounds["ours"].append(_ours(policy, contexts, samples, is_exact=False))
            rounds["exact"].append(_ours(policy, contexts, samples, is_exact=True))
            rounds["transformers"].append(_theirs(policy, contexts, samples))
        medians = {name: statistics.median(speeds) for name, speeds in rounds.items()}
        figures |= {f"{name}_{prompts}x{samples}": speed for name, speed in medians.items()}
        figures[f"ratio_{prompts}x{samples}"] = medians["ours"] / medians["transformers"]
        speeds_shown = ", ".join(f"{name} {speed:.1f}" for name, speed in medians.items())
        print(f"{prompts} prompts, {samples} samples each, tokens a second: {speeds_shown}", flush=True)
    print(" ".join(f"{name}={value:.2f}" for name, value in figures.items()))


def _ours(policy: Policy, contexts: list[list[int]], samples: int, is_exact: bool) -> float:
    rows = len(contexts) * samples
    start = time.perf_counter()
    sample(policy.model, contexts, samples, torch.rand(rows, _TOKENS), _SAMPLING, stop_ids=(), is_exact=is_exact)
    return rows * _TOKENS / (time.perf_counter() - start)


def _theirs(policy: Policy, contexts: list[list[int]], samples: int) -> float:
    width = max(map(len, contexts))
    ids = torch.tensor([[0] * (width - len(context)) + context for context in contexts])
    mask = torch.tensor([[0] * (width - len(context)) + [1] * len(context) for context in contexts])
    settings: dict[str, Any] = {"max_new_tokens": _TOKENS, "min_new_tokens": _TOKENS, "num_return_sequences": samples}
    has_onednn, packed.HAS_ONEDNN = packed.HAS_ONEDNN, False
    start = time.perf_counter()
    policy.model.generate(
        ids,
        attention_mask=mask,
        do_sample=True,
        top_p=_SAMPLING.top_p,
        top_k=0,
        repetition_penalty=_SAMPLING.repetition_penalty,
        pad_token_id=policy.tokenizer.pad_token_id,
        **settings,
    )
    seconds = time.perf_counter() - start
    packed.HAS_ONEDNN = has_onednn
    return len(contexts) * samples * _TOKENS / seconds


if __name__ == "__main__":
    main()
