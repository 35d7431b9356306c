"""Training and development pairs of the preference model: {chosen, rejected} texts of many kinds, one model for all.

    lamp          a machine's paragraph and its edit by a professional writer, scored 1-10 by writers
    lamp_scores   two such paragraphs on different matters whose scores are at least 2 apart
    roc           two five-sentence stories whose coherence people rate at least 0.8 apart
    scratchplot   two machine-made plots whose coherence people rate at least 1.3 apart (noisy)
    authored      a good continuation and one with a named flaw, written for storyrl
    policy        a story written for storyrl and a sample of the default policy
    corrupted     a passage of an old tale and the same passage spoilt by rule (see `CORRUPTIONS`), 40 to 700 words

What has human judgement comes from the data folder that the command line names; the rest lies in the project.
"""

import random
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from prompts.template import split_sentences
from storyrl.files import read_jsonl
from storyrl.story import Turn, prose


@dataclass(frozen=True)
class Pair:
    """Two texts, the better one first, by people or by rule; `group` keeps one text's pairs on one side of a split."""

    chosen: str
    rejected: str
    source: str
    group: str
    premise: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Rated:
    """A text and its mean rating by people, in its set's own unit."""

    text: str
    rating: float


def is_held_out(group: str) -> bool:
    """One group in five, fixed, by checksum."""
    return zlib.crc32(group.encode()) % 5 == 0


def _rows(path: Path) -> list[dict[str, Any]]:
    return [row for _, row in read_jsonl(path)]


def _own(name: str) -> Path:
    return Path(str(resources.files("rewards").joinpath("data", name)))


def lamp_pairs(data: Path) -> list[Pair]:
    """Draft and edit of one paragraph, the better scored first."""
    return [
        Pair(row["chosen"], row["rejected"], "lamp", row["chosen"][:60])
        for row in _rows(data / "lamp" / "lamp_pairs_train.jsonl")
    ]


def lamp_scores(data: Path, count: int, rng: random.Random) -> list[Pair]:
    """`count` pairs of paragraphs on different matters whose scores are at least 2 of 10 points apart."""
    rows = [Rated(row["text"], row["score"]) for row in _rows(data / "lamp" / "lamp_ratings_train.jsonl")]
    return rated_pairs(rows, "lamp_scores", 2.0, count, rng)


def roc(data: Path) -> list[Rated]:
    """Five-sentence stories and their coherence, 0 to 5."""
    return [Rated(row["story"], row["mean"]) for row in _rows(data / "plotcoh_roc" / "roc_stories.jsonl")]


def scratchplot(data: Path) -> list[Rated]:
    """Machine-made plots and their coherence, 1 to 5."""
    return [Rated(row["story"], row["mean"]["coherence"]) for row in _rows(data / "scratchplot" / "ratings.jsonl")]


def long_stories(by_model_only: bool = False) -> list[Rated]:
    """Texts of 220 to 660 words and their coherence, 0 to 5, mean of three readers. Only evaluated on.

    Old tales, tales spoilt by rule and what two small models wrote at several temperatures; lower case, tokenised.
    """
    rows = [row for row in _rows(_own("long_stories.jsonl")) if not (by_model_only and row["how"].startswith("tale"))]
    return [Rated(row["story"], sum(row["coherence"]) / len(row["coherence"])) for row in rows]


def rated_pairs(rows: Sequence[Rated], source: str, least: float, count: int, rng: random.Random) -> list[Pair]:
    """`count` random pairs of texts on one side of the split whose ratings are at least `least` apart."""
    sides = [[row for row in rows if is_held_out(row.text[:60]) == held_out] for held_out in (True, False)]
    pairs: list[Pair] = []
    while len(pairs) < count:
        side = sides[rng.random() > 0.2]
        first, second = rng.sample(side, 2)
        if abs(first.rating - second.rating) >= least:
            better, worse = (first, second) if first.rating > second.rating else (second, first)
            pairs.append(Pair(better.text, worse.text, source, better.text[:60]))
    return pairs


def authored_pairs() -> list[Pair]:
    """The handwritten pairs with named flaws."""
    return [
        Pair(row["chosen"], row["rejected"], "authored", row["id"], row["premise"], row["flaw"])
        for row in _rows(_own("preference_pairs.jsonl"))
    ]


def written_stories() -> list[tuple[str, str, list[Turn]]]:
    """The stories written for storyrl: id, premise, turns."""
    return [
        (row["id"], row["premise"], [Turn.model_validate(turn) for turn in row["turns"]])
        for name in ("authored.jsonl", "plain.jsonl")
        for row in _rows(Path(str(resources.files("prompts").joinpath("stories", name))))
    ]


def written_texts() -> list[str]:
    """The same as prose."""
    return [prose(turns) for _, _, turns in written_stories()]


def against_policy(rng: random.Random) -> list[Pair]:
    """Each story written for storyrl against a sample of the default policy, cut to like length."""
    written = written_stories()
    samples = [row["story"] for row in _rows(_own("goal_policy.jsonl")) if row["split"] == "train"]
    pairs = []
    for story_id, premise, turns in written:
        sample = rng.choice(samples)
        kept = len(turns)
        while kept > 1 and len(prose(turns[:kept]).split()) > len(sample.split()) + 15:
            kept -= 1
        pairs.append(Pair(prose(turns[:kept]), sample, "policy", story_id, premise))
    return pairs


# --- corrupted tales ------------------------------------------------------------------------------------------------

_ASSISTANT = (
    "I hope this helps! Let me know if you would like me to continue.",
    "Here is the next part of the story, with more detail and emotion.",
    "In conclusion, this story shows how important it is to be kind and to never give up.",
    "The story explores themes of love, loss and friendship, and invites the reader to reflect.",
    "As the story continues, we learn that the main character has a lot to discover about herself.",
    "Sure! I can add more characters, change the setting, or rewrite the ending for you.",
)


def _shuffled(sentences: list[str], rng: random.Random, _others: Sequence[str]) -> list[str]:
    order = sentences[:]
    while order == sentences:
        rng.shuffle(order)
    return order


def _looped(sentences: list[str], rng: random.Random, _others: Sequence[str]) -> list[str]:
    """From some point on one to three sentences come again and again, as a model that is stuck writes."""
    start = rng.randrange(1, max(2, len(sentences) * 3 // 4))
    loop = sentences[max(0, start - rng.randint(1, 3)) : start]
    return sentences[:start] + (loop * len(sentences))[: len(sentences) - start]


def _echoed(sentences: list[str], rng: random.Random, _others: Sequence[str]) -> list[str]:
    """A third of the sentences is replaced by earlier ones, some words changed."""
    new = sentences[:]
    for at in rng.sample(range(1, len(new)), max(1, len(new) // 3)):
        words = new[rng.randrange(at)].split()
        other = new[rng.randrange(len(new))].split()
        for _ in range(len(words) // 5):
            words[rng.randrange(len(words))] = rng.choice(other)
        new[at] = " ".join(words)
    return new


def _stutter(sentences: list[str], rng: random.Random, _others: Sequence[str]) -> list[str]:
    """Phrases of two to six words are said twice or more at once."""
    new = []
    for sentence in sentences:
        words = sentence.split()
        if len(words) > 6 and rng.random() < 0.4:
            at, size = rng.randrange(len(words) - 5), rng.randint(2, 6)
            words[at:at] = words[at : at + size] * rng.randint(1, 3)
        new.append(" ".join(words))
    return new


def _swapped(sentences: list[str], rng: random.Random, _others: Sequence[str]) -> list[str]:
    """He and she, I and they change places at random, and so do capitalised names."""
    pronouns = ["he", "she", "they", "i", "him", "her", "them", "me", "his", "their", "my"]
    names = list({w for s in sentences for w in re.findall(r"(?<=[a-z,] )[A-Z][a-z]{2,}", s)})

    def other(match: re.Match[str]) -> str:
        word = match[0]
        pool = pronouns if word.lower() in pronouns else names
        return rng.choice(pool) if (word.lower() in pronouns or word in names) and rng.random() < 0.4 else word

    return [re.sub(r"\b\w+\b", other, sentence) for sentence in sentences]


def _off(sentences: list[str], rng: random.Random, others: Sequence[str]) -> list[str]:
    """Sentences of another tale take the place of every second one, or of the whole second half."""
    half = len(sentences) // 2
    if rng.random() < 0.5:
        return sentences[:half] + list(others[: len(sentences) - half])
    return [s if at % 2 == 0 or at >= len(others) else others[at] for at, s in enumerate(sentences)]


def _assistant(sentences: list[str], rng: random.Random, _others: Sequence[str]) -> list[str]:
    new = sentences[:]
    for line in rng.sample(_ASSISTANT, min(len(_ASSISTANT), 1 + len(new) // 8)):
        new.insert(rng.randint(len(new) // 2, len(new)), line)
    return new


def _cut(sentences: list[str], rng: random.Random, _others: Sequence[str]) -> list[str]:
    words = sentences[-1].split()
    return [*sentences[:-1], " ".join(words[: max(1, len(words) // 2)]).rstrip(",.!?;:\"'")]


def _salad(sentences: list[str], rng: random.Random, _others: Sequence[str]) -> list[str]:
    """Words change places within a window of four in half of the sentences."""
    new = []
    for sentence in sentences:
        words = sentence.split()
        if rng.random() < 0.5:
            for at in range(0, len(words), 4):
                part = words[at : at + 4]
                rng.shuffle(part)
                words[at : at + 4] = part
        new.append(" ".join(words))
    return new


CORRUPTIONS: Mapping[str, Callable[[list[str], random.Random, Sequence[str]], list[str]]] = {
    "shuffled": _shuffled,
    "looped": _looped,
    "echoed": _echoed,
    "stutter": _stutter,
    "swapped": _swapped,
    "off": _off,
    "assistant": _assistant,
    "cut": _cut,
    "salad": _salad,
}


def tale_passages(data: Path, count: int, rng: random.Random) -> list[tuple[str, list[str]]]:
    """`count` passages of old tales of 40 to 700 words, as (title, sentences); not of FairytaleQA's val and test."""
    tales = [
        row
        for row in _rows(data / "public_domain_tales" / "tales.jsonl")
        if row["fairytaleqa_overlap"] not in ("val", "test")
    ]
    passages: list[tuple[str, list[str]]] = []
    while len(passages) < count:
        tale = rng.choice(tales)
        words = int(40 * (700 / 40) ** rng.random())
        start = rng.randrange(max(1, len(tale["text"]) - 8 * words))
        sentences = split_sentences(" ".join(tale["text"][start : start + 8 * words + 500].split()))[1:-1]
        part: list[str] = []
        for sentence in sentences:
            if sum(len(s.split()) for s in part) < words:
                part.append(sentence)
        if len(part) > 3 and sum(len(s.split()) for s in part) >= min(words, 40):
            passages.append((tale["title"], part))
    return passages


def corrupted(data: Path, count: int, rng: random.Random) -> list[Pair]:
    """`count` passages, each with a spoilt copy; three in ten also in lower case with spaced punctuation."""
    passages = tale_passages(data, count, rng)
    pairs = []
    for at, (title, sentences) in enumerate(passages):
        kind = list(CORRUPTIONS)[at % len(CORRUPTIONS)]
        spoilt = CORRUPTIONS[kind](sentences, rng, passages[(at * 7 + 1) % count][1])
        chosen, rejected = " ".join(sentences), " ".join(spoilt)
        if rng.random() < 0.3:
            chosen, rejected = (re.sub(r"([.,!?;:\"])", r" \1 ", text.lower()) for text in (chosen, rejected))
        pairs.append(Pair(chosen, rejected, "corrupted", title, kind=kind))
    return pairs
