"""The algorithm: log-probabilities, advantages, the gradient against exact enumeration, and that it learns."""

import itertools
import math
from typing import Any

import pytest
import torch

from rewards.base import Scorer, StoryText
from rewards.composite import Composite, Term
from storyrl.config import TuneConfig
from storyrl.errors import InputError
from storyrl.policy import Policy
from storyrl.story import Prompt
from storyrl.tuning.advantages import leave_one_out
from storyrl.tuning.episodes import Episode, collate
from storyrl.tuning.kl import k1, k3
from storyrl.tuning.learner import Learner
from storyrl.tuning.logprobs import action_logprobs, plain_chosen_logprobs
from storyrl.tuning.loop import tune
from storyrl.tuning.losses import policy_gradient_loss

from .conftest import tiny_model, word_tokenizer


def _episodes() -> list[Episode]:
    rows = [([5, 6, 7, 8, 9], 2), ([1, 2, 3], 1), ([4, 4, 4, 4], 3)]
    return [Episode(ids, [i >= start for i in range(len(ids))]) for ids, start in rows]


def test_logprobs_equal_a_plain_forward_and_so_does_their_gradient(tiny: Any) -> None:
    batch = collate(_episodes())
    fast = action_logprobs(tiny, batch)
    plain = torch.zeros_like(fast)
    for row, episode in enumerate(_episodes()):  # one by one, without padding
        ids = torch.tensor([episode.ids])
        chosen = plain_chosen_logprobs(tiny(ids).logits[0, :-1], ids[0, 1:])
        for place in range(1, len(episode.ids)):
            if episode.is_action_token[place]:
                plain[row, place] = chosen[place - 1]
    assert torch.allclose(fast, plain, atol=1e-5)
    assert (fast[~batch.is_action_token] == 0).all()
    weights = torch.randn_like(fast)
    gradients = [
        torch.autograd.grad((logprobs * weights).sum(), list(tiny.parameters()), allow_unused=True)
        for logprobs in (fast, plain)
    ]
    for one, two in zip(*gradients, strict=True):
        assert (one is None and two is None) or torch.allclose(one, two, atol=1e-5)


def test_leave_one_out_by_hand() -> None:
    advantages = leave_one_out(torch.tensor([[1.0, 2.0, 6.0], [0.0, 0.0, 3.0]]))
    assert torch.allclose(advantages, torch.tensor([[-3.0, -1.5, 4.5], [-1.5, -1.5, 3.0]]))
    assert torch.allclose(advantages.sum(dim=1), torch.zeros(2), atol=1e-6)
    with pytest.raises(ValueError, match="n >= 2"):
        leave_one_out(torch.zeros(3, 1))


def test_kl_estimates_by_hand() -> None:
    p, q = torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75])
    exact = float((p * (p / q).log()).sum())
    assert math.isclose(float((p * k1(p.log(), q.log())).sum()), exact, rel_tol=1e-6)
    assert math.isclose(float((p * k3(p.log(), q.log())).sum()), exact, rel_tol=1e-6)
    assert (k3(p.log(), q.log()) >= 0).all()


def test_gradient_equals_exact_enumeration() -> None:
    """With every string of two tokens weighted by its probability, the loss's gradient is that of the expectation."""
    torch.manual_seed(0)
    theta = torch.randn(3, 4, requires_grad=True)  # row 0: first token; row 1 + (first % 2): second token
    rewards = torch.randn(4, 4)
    logs = theta.log_softmax(dim=1)
    strings = list(itertools.product(range(4), repeat=2))
    joint = torch.stack([logs[0, a] + logs[1 + a % 2, b] for a, b in strings])
    value = torch.stack([rewards[a, b] for a, b in strings])
    expected = torch.autograd.grad((joint.exp() * value).sum(), theta, retain_graph=True)[0]
    per_token = torch.stack([torch.stack([logs[0, a], logs[1 + a % 2, b]]) for a, b in strings])
    advantages = (value * joint.exp().detach())[:, None].expand_as(per_token)
    loss = policy_gradient_loss(per_token.flatten(), advantages.flatten(), stories=1)
    assert torch.allclose(-torch.autograd.grad(loss, theta)[0], expected, atol=1e-6)


def test_optimum_is_the_tilted_reference() -> None:
    """KL-regularised REINFORCE with leave-one-out on four actions ends at pi_ref exp(r / beta) / Z."""
    torch.manual_seed(0)
    reference = torch.tensor([0.4, 0.3, 0.2, 0.1])
    rewards, beta = torch.tensor([0.0, 1.0, 0.5, 2.0]), 0.7
    target = reference * (rewards / beta).exp()
    target /= target.sum()
    theta = reference.log().clone().requires_grad_()
    optimiser = torch.optim.Adam([theta], lr=0.05)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.01, total_iters=600)
    for _ in range(600):
        logs = theta.log_softmax(dim=0)
        drawn = torch.multinomial(logs.exp(), 512, replacement=True)
        shaped = rewards[drawn] - beta * k1(logs[drawn].detach(), reference.log()[drawn])
        loss = policy_gradient_loss(logs[drawn], leave_one_out(shaped[None]).squeeze(0), stories=len(drawn))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    assert 0.5 * (theta.softmax(dim=0) - target).abs().sum() <= 0.01


class LikesLetter(Scorer):
    """Share of the letter e."""

    name = "goal"

    def score(self, stories: Any) -> list[float]:
        return [story.text.lower().count("e") / max(1, len(story.text)) for story in stories]


class Broken(Scorer):
    name = "goal"

    def score(self, stories: Any) -> list[float]:
        return [math.nan for _ in stories]


def _tune(
    scorer: Scorer, method: str = "lora", beta: float = 0.0, steps: int = 12, learning_rate: float = 0.02
) -> list[Any]:
    model = tiny_model("llama")
    with torch.no_grad():  # a head of random size 0.02 cannot be steered by an adapter below it
        model.get_output_embeddings().weight.mul_(20)
    policy = Policy(model, word_tokenizer(), "tiny")
    config = TuneConfig(
        steps=steps,
        prompts_per_step=2,
        samples_per_prompt=16,
        max_tokens=16,
        learning_rate=learning_rate,
        beta=beta,
        method=method,
    )
    prompts = [Prompt(id=str(i), premise=f"Number {i}.") for i in range(3)]
    reward = Composite([Term(scorer, 1.0, 0.0, 0.05)])
    return [step.metrics for step in tune(Learner(policy, config), prompts, reward, config)]


@pytest.mark.parametrize("method", ["lora", "full"])
def test_it_learns(method: str) -> None:
    metrics = _tune(LikesLetter(), method)
    assert metrics[0]["kl"] == 0
    assert metrics[0]["mismatch"] < 1e-4
    late = sum(m["scores"]["goal"]["mean"] for m in metrics[-3:]) / 3
    assert late > metrics[0]["scores"]["goal"]["mean"] + 0.05
    assert metrics[-1]["kl"] > 0.5


def test_large_beta_pins_the_policy() -> None:
    """At a small learning rate: where one step overshoots, what comes back is chance, and other on every processor."""
    free, pinned = (_tune(LikesLetter(), beta=beta, learning_rate=0.001) for beta in (0.0, 5.0))
    assert free[-1]["kl"] > 5
    assert abs(pinned[-1]["kl"]) < 0.25 * free[-1]["kl"]


def test_nan_reward_stops_the_run() -> None:
    with pytest.raises(InputError, match="scorer 'goal': gave nan"):
        _tune(Broken())


def test_scorers_are_trl_reward_functions() -> None:
    texts = ["[narrate] Tree.", [{"role": "assistant", "content": "[say Ann] Eel."}]]
    assert LikesLetter()(prompts=["", ""], completions=texts, goal=["", ""]) == [
        LikesLetter().score([StoryText("Tree.")])[0],
        LikesLetter().score([StoryText('"Eel," said Ann.')])[0],
    ]
