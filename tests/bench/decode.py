"""Tokens per second of our sampler and of transformers' `generate`, side by side: `make bench`.

Same model (the default policy), same prompts, temperature 1, top-p 0.9, 64 new tokens each; the two alternate, and the
median of three rounds counts. Ends with one line of key=value figures.
"""

import statistics
import time

import torch

from prompts.readers import read_prompts
from prompts.template import head_ids
from storyrl.decoding import Sampling, sample
from storyrl.policy import Policy

_TOKENS = 64


def main() -> None:
    """Measure at three batch sizes."""
    policy = Policy.load()
    figures: dict[str, float] = {}
    for batch in (1, 16, 64):
        contexts = [head_ids(prompt, policy.tokenizer) for prompt in read_prompts("starter:train")[:batch]]
        ours, theirs = [], []
        for _ in range(3):
            ours.append(_ours(policy, contexts))
            theirs.append(_theirs(policy, contexts))
        figures[f"ours_{batch}"] = statistics.median(ours)
        figures[f"transformers_{batch}"] = statistics.median(theirs)
        figures[f"ratio_{batch}"] = figures[f"ours_{batch}"] / figures[f"transformers_{batch}"]
        print(f"batch {batch}: {ours} against {theirs} tokens a second")
    print(" ".join(f"{name}={value:.2f}" for name, value in figures.items()))


def _ours(policy: Policy, contexts: list[list[int]]) -> float:
    start = time.perf_counter()
    sample(policy.model, contexts, 1, torch.rand(len(contexts), _TOKENS), Sampling(_TOKENS, top_p=0.9), stop_ids=())
    return len(contexts) * _TOKENS / (time.perf_counter() - start)


def _theirs(policy: Policy, contexts: list[list[int]]) -> float:
    width = max(map(len, contexts))
    ids = torch.tensor([[0] * (width - len(context)) + context for context in contexts])
    mask = torch.tensor([[0] * (width - len(context)) + [1] * len(context) for context in contexts])
    start = time.perf_counter()
    policy.model.generate(
        ids,
        attention_mask=mask,
        do_sample=True,
        top_p=0.9,
        top_k=0,
        max_new_tokens=_TOKENS,
        min_new_tokens=_TOKENS,
        pad_token_id=policy.tokenizer.pad_token_id,
    )
    return len(contexts) * _TOKENS / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
