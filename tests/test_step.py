"""Decoding steps against the models' own forward pass: kinds of models, shared contexts, dropped rows, LoRA."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from storyrl import packed
from storyrl.choosing import Sampling, _likeliest, choose
from storyrl.decoding import _WORTH_SHARING, sample
from storyrl.step import Stepper, can_step
from storyrl.tuning.lora import lora_layers, with_lora
from tests.conftest import tiny_model

_SHAPE = {
    "vocab_size": 90,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
}
_CONTEXTS = [[1, 2, 3, 4, 5, 6], [7, 8], [9, 9, 9]]


def _model(config: Any) -> Any:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.1)  # norms and biases that are not 1 and 0
    packed.pack(model)
    return model


def _own_logits(model: Any, ids: list[int]) -> torch.Tensor:
    logits: torch.Tensor = model(torch.tensor([ids])).logits[0, -1]
    return logits


def _begin(model: Any, samples: int, room: int) -> Stepper:
    from storyrl.decoding import _begin as begin

    stepper, _ = begin(model, _CONTEXTS, samples, room, None)
    assert isinstance(stepper, Stepper)
    return stepper


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(**_SHAPE),
        LlamaConfig(**_SHAPE, attention_bias=True, mlp_bias=True, hidden_act="gelu"),
        LlamaConfig(**_SHAPE, rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 500.0}),
        Qwen2Config(**_SHAPE),
        Qwen3Config(**_SHAPE),
        MistralConfig(**_SHAPE, sliding_window=None),
    ],
    ids=["llama", "llama with biases", "llama with scaled positions", "qwen2", "qwen3", "mistral"],
)
@torch.inference_mode()
def test_equals_the_models_own_forward(config: Any) -> None:
    model = _model(config)
    assert can_step(model)
    stepper, rows = _begin(model, 2, 5), [list(context) for context in _CONTEXTS for _ in range(2)]
    for _ in range(3):
        token = torch.randint(90, (6,))
        logits = stepper.logits(token)
        for row, chosen, own in zip(rows, token.tolist(), logits, strict=True):
            row.append(chosen)
            assert torch.allclose(own, _own_logits(model, row), atol=1e-4)
    stepper.take(torch.tensor([[1], [5]]))  # the second sample of the first and of the third context
    rows = [rows[1], rows[5]]
    logits = stepper.logits(torch.tensor([11, 12]))
    for row, chosen, own in zip(rows, (11, 12), logits, strict=True):
        assert torch.allclose(own, _own_logits(model, [*row, chosen]), atol=1e-4)


@torch.inference_mode()
def test_rows_of_a_context_may_change_places() -> None:
    model = _model(LlamaConfig(**_SHAPE))
    stepper = _begin(model, 3, 4)
    first = torch.arange(9)
    stepper.logits(first)
    keep = torch.tensor([[2, 0], [4, 4]])
    stepper.take(keep)
    logits = stepper.logits(torch.tensor([20, 21, 22, 22]))
    for row, chosen, own in zip(keep.flatten().tolist(), (20, 21, 22, 22), logits, strict=True):
        assert torch.allclose(own, _own_logits(model, [*_CONTEXTS[row // 3], row, chosen]), atol=1e-4)


@torch.inference_mode()
def test_lora_layers_are_the_models_own() -> None:
    base = tiny_model("llama")
    model = with_lora(base, 4, seed=0)
    for _, layer in lora_layers(model):
        layer.lora_b.normal_()
        layer.merge()
    stepper = _begin(model, 1, 2)
    logits = stepper.logits(torch.tensor([3, 4, 5]))
    for context, chosen, own in zip(_CONTEXTS, (3, 4, 5), logits, strict=True):
        assert torch.allclose(own, _own_logits(model, [*context, chosen]), atol=1e-4)
        assert not torch.allclose(own, _own_logits(base, [*context, chosen]), atol=1e-2)


def test_other_models_decode_by_their_own_forward() -> None:
    assert can_step(tiny_model("llama")) and not can_step(tiny_model("gpt2"))
    assert not can_step(_model(MistralConfig(**_SHAPE, sliding_window=4)))


def test_a_common_beginning_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model(LlamaConfig(**_SHAPE))
    beginning = list(range(30, 31 + _WORTH_SHARING))
    contexts = [beginning + context for context in _CONTEXTS]
    uniforms = torch.rand(6, 8)
    settings = Sampling(max_tokens=8)
    alone = [sample(model, [c], 2, uniforms[2 * i : 2 * i + 2], settings, ())[0] for i, c in enumerate(contexts)]
    read: list[int] = []
    forward = model.model.forward
    monkeypatch.setattr(model.model, "forward", lambda **kw: read.append(kw["input_ids"].numel()) or forward(**kw))
    together = sample(model, contexts, 2, uniforms, settings, ())
    assert read == [len(beginning), 3 * max(map(len, _CONTEXTS))]
    for one, other in zip(alone, together, strict=True):
        assert [row.ids for row in one] == [row.ids for row in other]
        for a, b in zip(one, other, strict=True):
            assert torch.allclose(torch.tensor(a.logprobs), torch.tensor(b.logprobs), atol=1e-4)


def test_half_weights_are_close_and_only_where_asked() -> None:
    model, uniforms = _model(LlamaConfig(**_SHAPE)), torch.rand(3, 6)
    exact = sample(model, _CONTEXTS, 1, uniforms, Sampling(max_tokens=6), ())
    again = sample(model, _CONTEXTS, 1, uniforms, Sampling(max_tokens=6), (), is_exact=True)
    half = sample(model, _CONTEXTS, 1, uniforms, Sampling(max_tokens=6), (), is_exact=False)
    assert exact == again
    same = [(a, b) for (a,), (b,) in zip(exact, half, strict=True) if a.ids == b.ids]
    assert len(same) >= 2
    for a, b in same:
        assert torch.allclose(torch.tensor(a.logprobs), torch.tensor(b.logprobs), atol=0.01)


def test_watching_stops_at_once_and_keeps_what_there_is(tiny: Any) -> None:
    told: list[list[list[int]]] = []

    def watch(rows: list[list[int]]) -> bool:
        told.append(rows)
        return len(told) < 4

    uniforms = torch.rand(6, 12)
    whole = sample(tiny, _CONTEXTS, 2, uniforms, Sampling(max_tokens=12), ())
    cut = sample(tiny, _CONTEXTS, 2, uniforms, Sampling(max_tokens=12), (), watch=watch)
    flat = [row for rows in whole for row in rows]
    assert told == [[row.ids[:length] for row in flat] for length in (1, 2, 3, 4)]
    assert [row.ids for rows in cut for row in rows] == [row.ids[:4] for row in flat]
    assert not any(row.stopped for rows in cut for row in rows)


def test_the_likeliest_are_those_of_a_whole_sort() -> None:
    """Rows that need few tokens beside rows that need hundreds, against sorting the whole vocabulary."""
    torch.manual_seed(0)
    logits = torch.randn(40, 800) * torch.linspace(0.1, 6, 40)[:, None]
    probs, tokens = _likeliest(logits, 0.9)
    whole, order = logits.softmax(dim=1).sort(dim=1, descending=True)
    needed = ((whole.cumsum(dim=1) - whole) < 0.9).sum(dim=1)
    assert needed.min() < 10 and needed.max() > 500
    for row, count in enumerate(needed.tolist()):
        assert tokens[row, :count].tolist() == order[row, :count].tolist()
        assert torch.allclose(probs[row, :count], whole[row, :count], atol=1e-6)
    uniforms = torch.rand(40)
    kept = whole.masked_fill(whole.cumsum(dim=1) - whole >= 0.9, 0.0).cumsum(dim=1)
    place = torch.searchsorted(kept, uniforms[:, None] * kept[:, -1:], right=True)
    assert choose(logits, uniforms, Sampling(top_p=0.9)).tolist() == order.gather(1, place).squeeze(1).tolist()


@pytest.mark.slow
def test_bundled_model_decodes_as_its_own_forward() -> None:
    """SmolLM2: log-probabilities of both ways of decoding beside a plain forward pass."""
    from prompts.readers import read_prompts
    from prompts.template import head_ids
    from storyrl.policy import Policy

    policy = Policy.load("storyteller", dtype=torch.float32)
    assert can_step(policy.model)
    contexts = [head_ids(prompt, policy.tokenizer) for prompt in read_prompts("starter:train")[:3]]
    for is_exact, tolerance in ((True, 1e-4), (False, 0.02)):
        drawn = sample(policy.model, contexts, 2, torch.rand(6, 24), Sampling(max_tokens=24), {0}, is_exact=is_exact)
        for context, rows in zip(contexts, drawn, strict=True):
            for row in rows:
                with torch.no_grad():
                    logits = policy.model(torch.tensor([context + row.ids])).logits[0, len(context) - 1 : -1]
                own = logits.log_softmax(dim=1).gather(1, torch.tensor(row.ids)[:, None]).squeeze(1)
                assert (torch.tensor(row.logprobs) - own).abs().max() < tolerance
