"""The fast path against the naive one, the algorithms by hand, odd episodes, and that every algorithm learns."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from rewards.base import Scorer
from rewards.composite import Composite, Term
from storyrl.config import TuneConfig
from storyrl.errors import InputError
from storyrl.policy import Policy, Rollout
from storyrl.story import Prompt
from storyrl.tuning.advantages import batch_mean, gae, group_normalised, returns_to_go
from storyrl.tuning.alarms import Watched, alarms, over_budget
from storyrl.tuning.episodes import Episode, collate, share_prefix
from storyrl.tuning.experience import collect, score_rollouts
from storyrl.tuning.kl import KLController
from storyrl.tuning.learner import Learner
from storyrl.tuning.logprobs import can_share_prefix, plain_logprobs, shared_logprobs
from storyrl.tuning.loop import _accumulate, prompts_of_step, tune
from storyrl.tuning.lora import lora_layers, merge, with_lora
from storyrl.tuning.losses import clipped_loss, policy_gradient_loss

from .conftest import tiny_model, word_tokenizer

# The same prompt, then actions; in the third, tokens of somebody else (4, 4) between two turns of the policy.
_ROWS = [([5, 6, 7, 8, 9], "00111"), ([5, 6, 3], "001"), ([5, 6, 4, 4, 9, 9, 2], "0010011"), ([5, 6, 7, 2], "0011")]


def _episodes() -> list[Episode]:
    return [Episode(ids, [flag == "1" for flag in flags]) for ids, flags in _ROWS]


def _random_lora(model: Any) -> Any:
    adapted = with_lora(model, 4, 0)
    for _, layer in lora_layers(adapted):
        torch.nn.init.normal_(layer.lora_b, std=0.1)
    merge(adapted)
    return adapted


@pytest.mark.parametrize("method", ["lora", "full"])
def test_reading_the_prompt_once_gives_the_same_numbers_and_gradients(tiny: Any, method: str) -> None:
    assert can_share_prefix(tiny)
    model = _random_lora(tiny) if method == "lora" else tiny
    plain, plain_states = plain_logprobs(model, collate(_episodes()))
    shared, states = shared_logprobs(model, share_prefix(_episodes()))
    assert torch.allclose(shared, plain, atol=1e-5)
    assert torch.allclose(states, plain_states, atol=1e-5)
    weights, trained = torch.randn(len(plain)), [p for p in model.parameters() if p.requires_grad]
    one, two = (torch.autograd.grad((x * weights).sum(), trained, allow_unused=True) for x in (plain, shared))
    for a, b in zip(one, two, strict=True):
        assert (a is None and b is None) or torch.allclose(a, b, atol=1e-5)


def test_merged_lora_equals_the_textbook_form() -> None:
    """y = x (W + s B A)^T with autograd through everything, against the merged layer's own backward."""
    torch.manual_seed(0)
    model = _random_lora(tiny_model("llama"))
    layer = next(layer for _, layer in lora_layers(model))
    x, g = torch.randn(2, 3, layer.weight.shape[1], requires_grad=True), torch.randn(2, 3, layer.weight.shape[0])
    base = layer._base[0].detach()
    text = x @ base.T + layer.scale * (x @ layer.lora_a.T) @ layer.lora_b.T
    assert torch.allclose(layer(x), text, atol=1e-5)
    wanted = torch.autograd.grad((text * g).sum(), [x, layer.lora_a, layer.lora_b])
    found = torch.autograd.grad((layer(x) * g).sum(), [x, layer.lora_a, layer.lora_b])
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(wanted, found, strict=True))


def test_saved_adapter_is_the_same_model_in_peft(tmp_path: Any) -> None:
    from peft import PeftModel

    from storyrl.tuning.lora import save_policy

    for kind in ("llama", "gpt2"):
        adapted = _random_lora(tiny_model(kind))
        save_policy(adapted, word_tokenizer(), tmp_path / kind, base="tiny")
        loaded = PeftModel.from_pretrained(tiny_model(kind), str(tmp_path / kind))
        ids = torch.tensor([[5, 6, 7, 8]])
        with torch.no_grad():
            assert torch.allclose(loaded(ids).logits, adapted(ids).logits, atol=1e-5)
        assert loaded.peft_config["default"].base_model_name_or_path == "tiny"


def test_a_model_without_full_attention_takes_the_plain_path() -> None:
    from transformers import AutoModelForCausalLM, MistralConfig

    torch.manual_seed(0)
    shape = {"vocab_size": 257, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = MistralConfig(**shape, num_key_value_heads=2, intermediate_size=64, sliding_window=8)
    model = AutoModelForCausalLM.from_config(config).float().eval()
    assert not can_share_prefix(model)
    learner = Learner(Policy(model, word_tokenizer(), "tiny"), TuneConfig())
    assert not learner.is_fast
    logprobs, states = learner.logprobs(_episodes())
    assert logprobs.shape == (9,) and states.shape == (9, 32)


def test_gae_by_hand() -> None:
    rewards, values = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([0.5, 1.0, 1.5])
    # d = [0 + 0.9*1 - 0.5, 1 + 0.9*1.5 - 1, 2 - 1.5] = [0.4, 1.35, 0.5]; A_2 = 0.5,
    # A_1 = 1.35 + 0.9*0.5*0.5 = 1.575, A_0 = 0.4 + 0.9*0.5*1.575 = 1.10875
    found = gae(rewards, values, torch.full((3,), 0.9), trace=0.5)
    assert torch.allclose(found, torch.tensor([1.10875, 1.575, 0.5]))
    # lambda = 1: the return less the value; lambda = 0: one step ahead
    assert torch.allclose(gae(rewards, values, torch.ones(3), 1.0), torch.tensor([2.5, 2.0, 0.5]))
    assert torch.allclose(gae(rewards, values, torch.ones(3), 0.0), torch.tensor([0.5, 1.5, 0.5]))
    with pytest.raises(ValueError, match="three"):
        gae(rewards, values[:2], torch.ones(3), 1.0)


def test_baselines_and_returns_by_hand() -> None:
    rewards = torch.tensor([[1.0, 3.0], [0.0, 8.0]])
    assert batch_mean(rewards).tolist() == [[-2.0, 0.0], [-3.0, 5.0]]
    expected = torch.tensor([[-1.0, 1.0], [-1.0, 1.0]]) / 2**0.5
    assert torch.allclose(group_normalised(rewards), expected, atol=1e-3)
    assert torch.allclose(returns_to_go(torch.tensor([1.0, 0.0, 4.0]), 0.5), torch.tensor([2.0, 2.0, 4.0]))


def test_clipped_loss_by_hand() -> None:
    old = torch.tensor([-1.0, -1.0, -2.0, -1.0])
    new = torch.tensor([-0.5, -1.0, -2.5, -1.0], requires_grad=True)
    # By the token, clip 0.2: ratios 1.6487, 1, 0.6065, 1; A = 2, 2, -1, -1.
    # min(3.297, 1.2 * 2) + 2 + min(-0.6065, -0.8) - 1 = 2.4 + 2 - 0.8 - 1 = 2.6
    advantages = torch.tensor([2.0, 2.0, -1.0, -1.0])
    loss, clipped = clipped_loss(new, old, advantages, torch.ones(4, dtype=torch.long), 0.2, stories=2)
    assert loss.item() == pytest.approx(-1.3, abs=1e-5)
    assert clipped.item() == 0.5
    assert torch.autograd.grad(loss, new)[0].tolist() == pytest.approx([0, -1, 0, 0.5])
    # By the story of two tokens: ratios exp(0.5), exp(-0.5): 2.4 - 0.8 = 1.6
    loss, _ = clipped_loss(new, old, advantages, torch.tensor([2, 2]), 0.2, stories=2)
    assert loss.item() == pytest.approx(-0.8, abs=1e-5)
    same = new.detach().requires_grad_()
    for lengths in (torch.ones(4, dtype=torch.long), torch.tensor([2, 2])):
        on_policy = torch.autograd.grad(clipped_loss(same, same.detach(), advantages, lengths, 0.2, 2)[0], same)[0]
        assert torch.allclose(on_policy, torch.autograd.grad(policy_gradient_loss(same, advantages, 2), same)[0])


def test_kl_controller_by_hand() -> None:
    controller = KLController(beta=0.1, target=2.0, horizon=100)
    controller.update(kl=2.2, stories=10)  # error 0.1
    assert controller.beta == pytest.approx(0.1 * 1.01)
    controller.update(kl=50.0, stories=10)  # clipped to 0.2
    assert controller.beta == pytest.approx(0.1 * 1.01 * 1.02)
    fixed = KLController(beta=0.1)
    fixed.update(kl=50.0, stories=10)
    assert fixed.beta == 0.1


def test_every_prompt_comes_once_a_pass() -> None:
    prompts = [Prompt(id=str(i), premise="A door.") for i in range(5)]
    config = TuneConfig(prompts_per_step=3)
    ids = [prompt.id for step in range(10) for prompt in prompts_of_step(prompts, config, step)]
    assert all(sorted(ids[start : start + 5]) == list("01234") for start in range(0, 30, 5))
    assert ids[:5] != ids[5:10]


# --- the loop on a tiny model ---------------------------------------------------------------------------------------


class LikesE(Scorer):
    """Share of the letter e, times ten."""

    name = "goal"

    def score(self, stories: Any) -> list[float]:
        return [10 * story.text.lower().count("e") / max(1, len(story.text)) for story in stories]


def _policy() -> Policy:
    model = tiny_model("llama")
    with torch.no_grad():  # a head of random size 0.02 cannot be steered by an adapter below it
        model.get_output_embeddings().weight.mul_(20)
    return Policy(model, word_tokenizer(), "tiny")


def _run(**settings: Any) -> list[dict[str, Any]]:
    shape = {"steps": 14, "prompts_per_step": 2, "samples_per_prompt": 16, "max_tokens": 16, "learning_rate": 0.02}
    config = TuneConfig(**{**shape, "beta": 0.0, **settings})
    prompts = [Prompt(id=str(i), premise=f"Number {i}.") for i in range(3)]
    reward = Composite([Term(LikesE(), 1.0, 0.0, 1.0)])
    return [step.metrics for step in tune(Learner(_policy(), config), prompts, reward, config)]


@pytest.mark.parametrize(
    "settings",
    [
        {"algorithm": "rloo"},
        {"algorithm": "reinforce"},
        {"algorithm": "grpo"},
        {"algorithm": "grpo", "epochs": 2, "minibatches": 2, "steps": 8},
        {"algorithm": "ppo", "epochs": 2, "minibatches": 2, "learning_rate": 0.005},
        {"algorithm": "rloo", "reward_per": "turn", "discount": 0.9},
        {"algorithm": "ppo", "reward_per": "turn", "discount": 0.9},
        {"algorithm": "rloo", "fast": False},
    ],
    ids=str,
)
def test_every_algorithm_learns(settings: dict[str, Any]) -> None:
    metrics = _run(**settings)
    assert metrics[0]["mismatch"] < 1e-4
    first, late = metrics[0]["scores"]["goal"]["mean"], sum(m["scores"]["goal"]["mean"] for m in metrics[-3:]) / 3
    assert late > first + 0.4, (first, late)
    assert metrics[0]["kl"] == 0 and metrics[0]["kl_k3"] == 0


@pytest.mark.parametrize("method", ["lora", "full"])
def test_bfloat16_models_learn_in_float32(method: str) -> None:
    policy = _policy()
    policy.model.bfloat16()
    shape = {"steps": 3, "prompts_per_step": 2, "samples_per_prompt": 8, "max_tokens": 16}
    config = TuneConfig(**shape, method=method, learning_rate=1e-3)
    learner = Learner(policy, config)
    before = [parameter.detach().clone() for parameter in learner.trained]
    reward = Composite([Term(LikesE(), 1.0, 0.0, 1.0)])
    metrics = [step.metrics for step in tune(learner, [Prompt(premise="A door.")] * 2, reward, config)]
    assert metrics[0]["kl"] == 0 and metrics[0]["mismatch"] < 0.3
    assert metrics[-1]["kl"] != 0
    assert all(parameter.dtype == torch.float32 for parameter in learner.trained)
    assert any(not torch.equal(a, b) for a, b in zip(before, learner.trained, strict=True))


def test_first_update_has_ratio_one() -> None:
    config = TuneConfig(epochs=2, prompts_per_step=1, samples_per_prompt=4, max_tokens=8, steps=1)
    learner = Learner(_policy(), config)
    rollouts = learner.policy.rollout([Prompt(id="p", premise="A door.")], 4, 8, seed=0)
    batch = collect(learner, rollouts, [[float(i)] for i in range(4)], config, beta=0.1)
    seen = _accumulate(learner, batch[0], config, stories=4)
    assert seen.clipped == 0 and seen.mismatch < 1e-5
    assert seen.loss == pytest.approx(-float(sum(a[0] for a in batch[0].advantages)) / 4, abs=1e-6)


def test_fast_and_plain_loops_agree() -> None:
    fast, plain = (_run(fast=fast, steps=3, beta=0.1, learning_rate=1e-3) for fast in (True, False))
    for one, two in zip(fast, plain, strict=True):
        for name in ("reward", "kl", "loss", "grad_norm"):
            assert one[name] == pytest.approx(two[name], abs=1e-4), name


@pytest.mark.slow
def test_adaptive_beta_holds_the_kl_near_its_target() -> None:
    shape = {"beta": 0.5, "steps": 40, "learning_rate": 0.002}
    controlled, free = _run(target_kl=1.0, kl_horizon=30, **shape), _run(**shape)
    with_control, without = (sum(m["kl"] for m in rows[-10:]) / 10 for rows in (controlled, free))
    assert abs(with_control - 1) < 0.5
    assert abs(without - 1) > abs(with_control - 1)
    assert free[-1]["beta"] == 0.5 != controlled[-1]["beta"]


def _fixed(policy: Policy, rows: list[list[int]], truncated: bool = False) -> list[Rollout]:
    head = [5, 6, 7]
    prompt = Prompt(id="p", premise="A door.")
    rollouts = policy.rollout([prompt], len(rows), 4, seed=0)
    return [
        replace(
            rollout,
            episode=Episode(
                head + ids, [False] * 3 + [True] * len(ids), [-1.0] * len(ids), 0, policy._turn_ends(ids), truncated
            ),
        )
        for rollout, ids in zip(rollouts, rows, strict=True)
    ]


@pytest.mark.parametrize("algorithm", ["rloo", "ppo"])
def test_odd_episodes(algorithm: str) -> None:
    """The end token, which is also the padding token, counts as an action; nothing written at all gives no gradient."""
    config = TuneConfig(algorithm=algorithm, samples_per_prompt=3)
    learner = Learner(_policy(), config)
    end = learner.policy.tokenizer.eos_token_id
    assert learner.policy.tokenizer.pad_token_id == end
    rollouts = _fixed(learner.policy, [[8, 9, end], [end], []])
    batch = collect(learner, rollouts, [[1.0], [0.0], [5.0]], config, beta=0.1)
    assert [len(a) for a in batch[0].advantages] == [3, 1, 0]
    seen = _accumulate(learner, batch[0], config, stories=3)
    assert torch.isfinite(seen.kl).all() and seen.kl[2] == 0
    grads = [p.grad for p in learner.trained if p.grad is not None]
    assert grads and all(torch.isfinite(g).all() for g in grads)


def test_dropping_truncated_stories_leaves_no_gradient_when_all_are() -> None:
    for truncated, some in (("drop", False), ("keep", True)):
        config = TuneConfig(truncated=truncated, samples_per_prompt=2)
        learner = Learner(_policy(), config)
        rollouts = _fixed(learner.policy, [[8, 9], [9, 8]], truncated=True)
        batch = collect(learner, rollouts, [[1.0], [0.0]], config, beta=0.1)
        _accumulate(learner, batch[0], config, stories=2)
        moved = any(p.grad is not None and bool((p.grad != 0).any()) for p in learner.trained)
        assert moved is some


def test_turn_rewards_sum_to_the_storys_reward() -> None:
    policy = _policy()
    reward = Composite([Term(LikesE(), 1.0, 0.0, 1.0)])
    rollouts = policy.rollout([Prompt(id="p", premise="A door.")], 16, 60, seed=3)
    scored, rewards = score_rollouts(policy, rollouts, reward, TuneConfig(reward_per="turn"))
    assert max(map(len, rewards)) > 1
    for rollout, one, own in zip(rollouts, scored, rewards, strict=True):
        assert len(own) == len(rollout.episode.turn_ends)
        assert rollout.episode.turn_ends[-1] == sum(rollout.episode.is_action_token)
        assert sum(own) == pytest.approx(one.reward, abs=1e-6)


def test_gradient_that_is_not_finite_stops_before_the_step() -> None:
    class Huge(LikesE):
        def score(self, stories: Any) -> list[float]:
            return [1e38 * (-1) ** n for n in range(len(stories))]

    config = TuneConfig(prompts_per_step=1, samples_per_prompt=4, max_tokens=8, steps=1)
    learner = Learner(_policy(), config)
    before = [p.detach().clone() for p in learner.trained]
    with pytest.raises(InputError, match="gradient is not finite"):
        next(tune(learner, [Prompt(premise="A door.")], Composite([Term(Huge(), 1.0, 0.0, 1.0)]), config))
    assert all(torch.equal(a, b) for a, b in zip(before, learner.trained, strict=True))


# --- alarms ---------------------------------------------------------------------------------------------------------


def _rows(reward: float, copying: float, judge: float, steps: int = 20) -> list[dict[str, Any]]:
    """Metrics whose numbers move by so much from the first to the last step, with a ripple."""
    return [
        {
            "reward": reward * i / steps + 0.01 * (i % 2),
            "kl": 0.2 * i,
            "scores": {
                "copying": {"mean": max(0.0, copying * i / steps)},
                "judge": {"mean": judge * i / steps + 0.01 * (i % 2)},
            },
        }
        for i in range(steps)
    ]


def test_alarms() -> None:
    watched = [Watched("copying", True), Watched("judge", False)]
    assert alarms(_rows(1.0, 0.0, 0.5), watched) == []
    [guard] = alarms(_rows(1.0, 0.4, 0.5), watched)
    assert "'copying' rises" in guard
    [judge] = alarms(_rows(1.0, 0.0, -0.5), watched)
    assert "'judge' falls" in judge
    assert alarms(_rows(-1.0, 0.4, -0.5), watched) == []  # the reward does not rise: bad luck, not gaming
    assert alarms(_rows(1.0, 0.4, -0.5, steps=8), watched) == []  # too early
    assert over_budget(_rows(1.0, 0.0, 0.0), 3.0) and not over_budget(_rows(1.0, 0.0, 0.0), 4.0)
    assert not over_budget(_rows(1.0, 0.0, 0.0), 0.0)
