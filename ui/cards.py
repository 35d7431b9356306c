"""The suggestions for the next turn as HTML: cards with their bars, the weights of the reward, the earlier rounds."""

from collections.abc import Mapping, Sequence
from html import escape

from rewards.guards import GUARDS
from storyrl.store import Round
from ui.html import attributes, button, meter, span, who_does
from ui.session import Offer, Weights

_TERMS = {"preference": "taste"}  # the scorers' names in the reader's words
_SPAN = 3.0  # the bar of the total reaches from -3 to +3 standard deviations
_WEIGHTS = {"goal": "Goal", "taste": "Taste", "guards": "Clean"}


def cards(offers: Sequence[Offer], has_goal: bool, before: float | None) -> str:
    """The offers in their order. `before` is the goal's probability without any of them, if it is known."""
    return f'<div class="cards">{"".join(_card(n, offer, has_goal, before) for n, offer in enumerate(offers))}</div>'


def _card(number: int, offer: Offer, has_goal: bool, before: float | None) -> str:
    turn, scores, here = offer.candidate.turn, offer.candidate.scores, offer.candidate.id
    names = [name for name in offer.bars if has_goal or name != "goal"]
    bars = "".join(_bar(name, offer.bars[name], scores, before) for name in names)
    label = f"Suggestion {number + 1}{', picked before' if offer.candidate.picked else ''}"
    more = "Writes new ones of this kind and speaker, with this text as an example of the style"
    buttons = (
        button("Pick", "pick", "primary", id=f"pick-{number}", data_candidate=here)
        + button("Edit", "take", id=f"edit-{number}", data_candidate=here, title="Pick it and change its words")
        + button("More like this", "like", data_candidate=here, data_on="submit", title=more)
    )
    return (
        f'<section class="card suggestion" aria-label="{label}"><p class="who">{escape(who_does(turn))}</p>'
        f'<p class="words">{escape(turn.text)}</p><div class="bars">{bars}{_total(offer.total)}</div>'
        f'<div class="row buttons">{buttons}</div></section>'
    )


def drafts(texts: Sequence[str]) -> str:
    """Suggestions that are still being written; nothing in them is read out."""
    shown = (text.partition("] ")[2] if text.startswith("[") else text for text in texts)
    rows = "".join(
        f'<section class="card suggestion draft"><p class="words">{escape(t) or "…"}</p></section>' for t in shown
    )
    return f'<div class="cards" aria-busy="true">{rows}</div>'


def _bar(name: str, share: float, scores: Mapping[str, float], before: float | None) -> str:
    percent = round(100 * share)
    word, number = _TERMS.get(name, name), f"{percent} %"
    if name == "clean":
        faults = ", ".join(f"{guard} {scores[guard]:.0%}" for guard in GUARDS if scores.get(guard))
        label = f"clean: {faults or 'no fault found'}"
    elif name == "goal":
        label = f"goal: has happened by now with a probability of {percent} %"
        if before is not None:
            change = percent - round(100 * before)
            label, number = f"{label}, {change:+d} by this turn", f"{percent} % {change:+d}"
    else:
        label = f"{word}: better than {percent} % of the model's usual stories (score {scores[name]:.2f})"
    return meter(word, label, percent, number, "term")


def _total(reward: float) -> str:
    percent = round(100 * (min(max(reward, -_SPAN), _SPAN) + _SPAN) / (2 * _SPAN))
    label = f"total: {reward:+.2f} standard deviations from the model's usual stories; the suggestions are sorted by it"
    return meter("total", label, percent, f"{reward:+.2f}", "total")


def weighing(weights: Weights) -> str:
    """Sliders for the weights; moving one sorts the suggestions anew, without the model."""
    rows = "".join(
        span(word, name, getattr(weights, name), 0, 3, 0.25, f"×{getattr(weights, name):g}")
        for name, word in _WEIGHTS.items()
    )
    given = attributes({"data-autosave": True, "data-do": "weights", "data-on": "input"})
    return f'<form class="desk-form weights" aria-label="Weights"{given}><p>What counts in the total</p>{rows}</form>'


def earlier(rounds: Sequence[Round], shown: Round) -> str:
    """Buttons to the other rounds of this place; empty when there is only one."""
    if len(rounds) < 2:
        return ""
    at = rounds.index(shown)
    older = button("‹ Older", "round", data_round=rounds[at + 1].id) if at + 1 < len(rounds) else ""
    newer = button("Newer ›", "round", data_round=rounds[at - 1].id) if at else ""
    return f'<p class="row rounds">{older}<span>Round {len(rounds) - at} of {len(rounds)} here</span>{newer}</p>'
