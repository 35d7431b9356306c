"""Suggestions for the next turn and versions of a passage as HTML: cards with bars, weights, and older rounds."""

import math
from collections.abc import Mapping, Sequence
from html import escape

from rewards.guards import GUARDS
from storyrl.rewrite import FIT
from storyrl.store import Round
from storyrl.story import Turn
from ui.html import attributes, button, line, meter, span, who_does
from ui.session import Offer, Rewriting, Weights, framed

_TERMS = {"preference": "taste"}  # the scorers' names in the reader's words
_AROUND = 60  # characters of its block that a version shows on each side
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


def words_of(line: str) -> str:
    """What a turn's line says so far, without its tag, which may be unfinished."""
    return line.partition("] ")[2] if line.startswith("[") else line


def drafts(lines: Sequence[str]) -> str:
    """Suggestions that are still being written; nothing in them is read out."""
    rows = "".join(
        f'<section class="card suggestion draft"><p class="words">{escape(words_of(line)) or "…"}</p></section>'
        for line in lines
    )
    return f'<div class="cards" aria-busy="true">{rows}</div>'


def versions(offers: Sequence[Offer], turn: Turn, where: Rewriting, number: int, has_goal: bool) -> str:
    """The versions of a passage in block `number`, in their order, and how to ask for more."""
    rows = "".join(_version(n, offer, turn, where.block, has_goal) for n, offer in enumerate(offers))
    return f'{passage_head(turn, where, number)}{_more(turn, where)}<div class="cards">{rows}</div>'


def passage_head(turn: Turn, where: Rewriting, number: int, writing: bool = False) -> str:
    """Which words are being written anew, and the way out of that."""
    words = turn.text[where.start : where.end]
    short = words if len(words) <= 2 * _AROUND else f"{words[:_AROUND].rstrip()} … {words[-_AROUND:].lstrip()}"
    out = (
        button("Stop", "halt", data_on="input", id="stop-rewriting")
        if writing
        else button("Keep it as it is", "keep", id="keep-passage")
    )
    return f'<div class="row passage-head"><p>Block {number}, other words for “{escape(short)}”</p>{out}</div>'


def _more(turn: Turn, where: Rewriting) -> str:
    place = {"data_block": where.block, "data_start": where.start, "data_end": where.end, "data_seen": turn.text}
    again = button("Write more versions", "rewrite", "first", data_on="submit", **place)
    return (
        '<form class="desk-form row" aria-label="More versions">'
        + line("Hint (optional)", "hint", where.hint, maxlength=200, placeholder="darker")
        + f"{again}</form>"
    )


def _version(number: int, offer: Offer, turn: Turn, block: int, has_goal: bool) -> str:
    scores, here = offer.candidate.scores, offer.candidate.id
    before, words, after = framed(offer.candidate, turn) or ("", offer.candidate.turn.text, "")
    taken = offer.candidate.turn.text == turn.text
    names = [name for name in offer.bars if has_goal or name != "goal"]
    bars = "".join(_bar(name, offer.bars[name], scores, None) for name in names)
    pick = button(
        "Pick", "replace", "primary", id=f"version-{number}", data_candidate=here, data_block=block, disabled=taken
    )
    label = f"Version {number + 1}{', in the story now' if taken else ''}"
    return (
        f'<section class="card suggestion version" aria-label="{label}"><p class="words">'
        f'<span class="kept">{escape(_last(before))}</span>{escape(words)}<span class="kept">{escape(_first(after))}'
        f'</span></p><div class="bars">{bars}{_joint(scores.get(FIT))}{_together(offer.total, scores.get(FIT))}</div>'
        f'<div class="row buttons">{pick}{"<span>in the story now</span>" if taken else ""}</div></section>'
    )


def _last(text: str) -> str:
    return text if len(text) <= _AROUND else "… " + text[-_AROUND:].partition(" ")[2]


def _first(text: str) -> str:
    return text if len(text) <= _AROUND else text[:_AROUND].rpartition(" ")[0] + " …"


def _joint(fit: float | None) -> str:
    if fit is None:
        return ""
    times = f"×{math.exp(fit):.2f}"
    label = (
        f"joint: a piece of the words that follow is on average {times[1:]} times as likely as after the old passage; "
        "the logarithm of that counts"
    )
    return meter("joint", label, round(50 + 25 * min(max(fit, -2.0), 2.0)), times, "term")


def _together(total: float, fit: float | None) -> str:
    if fit is None:
        return _total(total) + '<p class="sum">Nothing follows, so there is no joint to judge.</p>'
    total, fit = round(total, 2), round(fit, 2)
    whole = f"{total + fit:+.2f}"
    label = f"together: {whole}; the versions are sorted by it"
    return (
        meter("together", label, _share_of_span(total + fit), whole, "total")
        + f'<p class="sum">{total:+.2f} for the story, {fit:+.2f} for the joint</p>'
    )


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
    label = f"total: {reward:+.2f} standard deviations from the model's usual stories; the suggestions are sorted by it"
    return meter("total", label, _share_of_span(reward), f"{reward:+.2f}", "total")


def _share_of_span(reward: float) -> int:
    return round(100 * (min(max(reward, -_SPAN), _SPAN) + _SPAN) / (2 * _SPAN))


def weighing(weights: Weights) -> str:
    """Sliders for the weights; moving one sorts the suggestions anew, without the model."""
    rows = "".join(
        span(word, name, getattr(weights, name), 0, 3, 0.25, f"×{getattr(weights, name):g}")
        for name, word in _WEIGHTS.items()
    )
    given = attributes({"data-autosave": True, "data-do": "weights", "data-on": "input"})
    return f'<form class="desk-form weights" aria-label="Weights"{given}><p>What counts in the total</p>{rows}</form>'


def earlier(rounds: Sequence[Round], shown: Round, do: str = "round") -> str:
    """Buttons to the other rounds of this place; empty when there is only one."""
    if len(rounds) < 2:
        return ""
    at = rounds.index(shown)
    older = button("‹ Older", do, data_round=rounds[at + 1].id) if at + 1 < len(rounds) else ""
    newer = button("Newer ›", do, data_round=rounds[at - 1].id) if at else ""
    return f'<p class="row rounds">{older}<span>Round {len(rounds) - at} of {len(rounds)} here</span>{newer}</p>'
