"""What a text's surface tells: the measures of style that the preference model reads beside the sentence encoder.

All are rates or means, so none grows with length, and none depends on capitals or on spaces around punctuation: texts
come as people type them and as corpora tokenise them.
"""

import math
import re
import zlib
from collections.abc import Sequence

import torch

from prompts.template import split_sentences

HASHED_WORDS = 4096
_WINDOWS = (25, 50, 100, 200)  # words
_WORD = re.compile(r"\w+(?:'\w+)?|[^\w\s]")
_SPEECH = re.compile(r'"[^"]*"')
_BE = frozenset("am is are was were be been being".split())
_I = frozenset("i me my mine we us our you your".split())
_LINKS = frozenset("and but or so because then while as with of".split())
_HEDGES = frozenset("seemed seem seems felt feel as if like though perhaps almost somehow something".split())
_BRIGHT = frozenset(
    "love loved happy joy smile smiled laugh laughed laughing home warm safe friend friends thank thanks glad kiss kissed "
    "hug hugged together hope bright gift dance danced sang song free saved forgave forgive gentle proud sweet".split()
)
_DARK = frozenset(
    "dead death die died kill killed blood cry cried tears fear afraid alone lost dark cold pain hurt never gone broken "
    "burned lonely grave hate hated angry screamed wept empty sorry dying hunger".split()
)
_SENSES = frozenset(
    "red blue green white black gold golden silver grey yellow bright dark light shadow glow shone smell smelled scent sour "
    "bitter sweet salt warm cold hot wet dry rough smooth soft hard loud quiet sound whisper hum rain wind snow dust smoke "
    "stone wood iron glass leaf leaves moon sun sky sea water fire thin thick sharp".split()
)
_MOVES = frozenset(
    "ran run running jumped jump fell fall threw throw grabbed caught pulled pushed kicked hit struck climbed chased fled "
    "shot swung broke smashed crashed leapt dived rushed raced burst slammed fought drove rode escaped dodged rolled "
    "suddenly fast quick quickly".split()
)

NAMES = (
    *(f"distinct words in {n}" for n in _WINDOWS),
    "repeated trigrams",
    "repeated sentences",
    "most frequent word",
    "word length",
    "long words",
    "sentence length",
    "sentence spread",
    "short sentences",
    "speech",
    "lines of speech",
    "commas",
    "questions",
    "exclamations",
    "dashes",
    "semicolons",
    "ellipses",
    "-ly words",
    "-ing words",
    "forms of be",
    "first and second person",
    "links",
    "hedges",
    "articles",
    "bright words",
    "dark words",
    "bright end",
    "dark end",
    "words of the senses",
    "words of movement",
    "ends a sentence",
)


def plain(text: str) -> str:
    """Lower case, straight quotes, no spaces before punctuation or inside contractions."""
    text = text.lower().replace("’", "'").replace("‘", "'").replace("“", '"').replace("”", '"')
    text = text.replace("``", '"').replace("''", '"').replace("—", " - ").replace("–", " - ").replace("…", "...")
    text = re.sub(r"\b(\w+) (n't|'s|'re|'ve|'ll|'d|'m)\b", r"\1\2", text)
    return re.sub(r" +([.,!?;:])", r"\1", text)


def measures(text: str) -> list[float]:
    """The measures of one text, in the order of NAMES; all 0 for a text without words."""
    low = plain(text)
    tokens = _WORD.findall(low)
    words = [token for token in tokens if token[0].isalnum()]
    if not words:
        return [0.0] * len(NAMES)
    sentences = [_words(sentence) for sentence in split_sentences(low)]
    sentences = [sentence for sentence in sentences if sentence] or [words]
    lengths = [len(sentence) for sentence in sentences]
    mean_length = sum(lengths) / len(lengths)
    count = len(words)
    trigrams = list(zip(words, words[1:], words[2:], strict=False))
    speech = sum(len(_words(spoken)) for spoken in _SPEECH.findall(low))
    end = words[-40:]
    counts: dict[str, int] = {}
    for word in words:
        counts[word] = counts.get(word, 0) + 1
    content = [number for word, number in counts.items() if len(word) > 3]

    def rate(chosen: frozenset[str], among: Sequence[str] = words) -> float:
        return sum(word in chosen for word in among) / len(among)

    def marks(mark: str) -> float:
        return low.count(mark) / count

    return [
        *(_distinct(words, size) for size in _WINDOWS),
        math.sqrt(1 - len(set(trigrams)) / len(trigrams)) if trigrams else 0.0,
        math.sqrt(1 - len({tuple(sentence) for sentence in sentences}) / len(sentences)),
        math.sqrt(max(content, default=0) / count),
        sum(map(len, words)) / count,
        sum(len(word) > 8 for word in words) / count,
        math.log(mean_length),
        math.sqrt(sum((length - mean_length) ** 2 for length in lengths) / len(lengths)) / mean_length,
        sum(length <= 6 for length in lengths) / len(lengths),
        speech / count,
        sum(1 for spoken in _SPEECH.findall(low)) / len(sentences),
        marks(","),
        marks("?"),
        marks("!"),
        marks(" - "),
        marks(";") + marks(":"),
        marks("..."),
        sum(word.endswith("ly") for word in words) / count,
        sum(word.endswith("ing") for word in words) / count,
        rate(_BE),
        rate(_I),
        rate(_LINKS),
        rate(_HEDGES),
        rate(frozenset(("a", "an", "the"))),
        rate(_BRIGHT),
        rate(_DARK),
        rate(_BRIGHT, end),
        rate(_DARK, end),
        rate(_SENSES),
        rate(_MOVES),
        float(low.rstrip().endswith((".", "!", "?", '"', "'", ")"))),
    ]


def hashed_words(text: str) -> torch.Tensor:
    """Word and punctuation counts hashed into HASHED_WORDS places with a random sign, as a unit vector (Weinberger et
    al. 2009)."""
    vector = torch.zeros(HASHED_WORDS)
    tokens = _WORD.findall(plain(text))
    if tokens:
        codes = [zlib.crc32(token.encode()) for token in tokens]
        signs = torch.tensor([1.0 if code & 1 << 20 else -1.0 for code in codes])
        vector.index_add_(0, torch.tensor([code % HASHED_WORDS for code in codes]), signs)
        vector /= vector.norm().clamp(min=1e-6)
    return vector


def _words(text: str) -> list[str]:
    return re.findall(r"\w+(?:'\w+)?", text)


def _distinct(words: Sequence[str], size: int) -> float:
    """Mean share of different words in windows of `size` (half overlapping); of the whole text when it is shorter,
    scaled to what is usual for `size` by Heaps' law with exponent 0.8."""
    if len(words) <= size:
        return len(set(words)) / len(words) * (len(words) / size) ** 0.2
    shares = [len(set(words[at : at + size])) / size for at in range(0, len(words) - size + 1, size // 2)]
    return sum(shares) / len(shares)
