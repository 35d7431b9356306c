"""What a text's surface tells: the measures of style that the preference model reads.

All are rates or means, so none grows with length, and none depends on capitals or on spaces around punctuation: texts
come as people type them and as corpora tokenise them. `WordPairs` is the one learned part: how usual neighbouring words
are beside one another in written stories, the small stand-in for a language model's log-probability.
"""

import itertools
import math
import re
import zlib
from collections.abc import Sequence

import torch

from prompts.template import split_sentences

HASHED_WORDS = 4096
_WORDS_NORM = 30.0


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_WINDOWS = (25, 50, 100, 200)  # words
_WORD = re.compile(r"\w+(?:'\w+)?|[^\w\s]")
_SPEECH = re.compile(r'"[^"]*"')
_BE = _set("am is are was were be been being")
_I = _set("i me my mine we us our you your")
_PRONOUNS = _set("he she it they him her them his hers their this that these those then so but and")
_LINKS = _set("and but or so because then while as with of")
_HEDGES = _set("seemed seem seems felt feel as if like though perhaps almost somehow something")
_BRIGHT = _set(
    "love loved happy joy smile smiled laugh laughed laughing home warm safe friend friends thank thanks glad kiss "
    "kissed hug hugged together hope bright gift dance danced sang song free saved forgave forgive gentle proud sweet"
)
_DARK = _set(
    "dead death die died kill killed blood cry cried tears fear afraid alone lost dark cold pain hurt never gone "
    "broken burned lonely grave hate hated angry screamed wept empty sorry dying hunger"
)
_SENSES = _set(
    "red blue green white black gold golden silver grey yellow bright dark light shadow glow shone smell smelled "
    "scent sour bitter sweet salt warm cold hot wet dry rough smooth soft hard loud quiet sound whisper hum rain wind "
    "snow dust smoke stone wood iron glass leaf leaves moon sun sky sea water fire thin thick sharp"
)
_MOVES = _set(
    "ran run running jumped jump fell fall threw throw grabbed caught pulled pushed kicked hit struck climbed chased "
    "fled shot swung broke smashed crashed leapt dived rushed raced burst slammed fought drove rode escaped dodged "
    "rolled suddenly fast quick quickly"
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
    "usual word pairs",
    "unusual word pairs",
    "words in common with the sentence before",
    "words in common with the sentence before, over chance",
    "opens with a pronoun",
    "unbalanced quotation marks",
    "words at once again",
    "premise's words in the story",
    "premise's words in its second half",
)


def plain(text: str) -> str:
    """Lower case, straight quotes, no spaces before punctuation or inside contractions."""
    text = text.lower().replace("’", "'").replace("‘", "'").replace("“", '"').replace("”", '"')
    text = text.replace("``", '"').replace("''", '"').replace("—", " - ").replace("–", " - ").replace("…", "...")
    text = re.sub(r"\b(\w+) (n't|'s|'re|'ve|'ll|'d|'m)\b", r"\1\2", text)
    return re.sub(r" +([.,!?;:])", r"\1", text)


class WordPairs:
    """Log-probability of a word after another by hashed counts, with back-off to the word's own; nats.

    log p(b | a) = log((n(a, b) + K p(b)) / (n(a) + K)), K = 20 (Dirichlet smoothing, MacKay & Peto 1995).
    """

    PAIRS, WORDS = 1 << 17, 1 << 14

    def __init__(self, pairs: torch.Tensor, words: torch.Tensor):
        """Counts by hash: pairs [PAIRS] and words [WORDS], as 8-bit steps of log2(1 + n) / 0.1."""
        self.tensors = {"pairs": pairs, "words": words}
        self._pairs = (torch.exp2(pairs.float() * 0.1) - 1).tolist()
        self._words = (torch.exp2(words.float() * 0.1) - 1).tolist()
        self._total = sum(self._words) or 1.0

    @classmethod
    def count(cls, texts: Sequence[str]) -> "WordPairs":
        """Count in texts."""
        pairs, words = torch.zeros(cls.PAIRS), torch.zeros(cls.WORDS)
        for text in texts:
            codes = [zlib.crc32(word.encode()) for word in _WORD.findall(plain(text))]
            if codes:
                words.index_add_(0, torch.tensor(codes) % cls.WORDS, torch.ones(len(codes)))
                joint = torch.tensor([_pair_code(a, b) for a, b in itertools.pairwise(codes)], dtype=torch.long)
                pairs.index_add_(0, joint, torch.ones(len(joint)))
        steps = [(torch.log2(1 + counts) / 0.1).round().clamp(max=255).to(torch.uint8) for counts in (pairs, words)]
        return cls(*steps)

    def logprobs(self, tokens: Sequence[str]) -> list[float]:
        """log p of each token but the first."""
        codes = [zlib.crc32(token.encode()) for token in tokens]
        result = []
        for before, code in itertools.pairwise(codes):
            alone = (self._words[code % self.WORDS] + 0.1) / self._total
            together = self._pairs[_pair_code(before, code)]
            known = self._words[before % self.WORDS]
            result.append(math.log((min(together, known) + 20 * alone) / (known + 20)))
        return result


def _pair_code(before: int, code: int) -> int:
    return (before * 31 + code * 17) % WordPairs.PAIRS


def measures(text: str, pairs: WordPairs, premise: str = "") -> list[float]:
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
        *_usual(pairs.logprobs(tokens)),
        *_cohesion(sentences),
        float(sentences[0][0] in _PRONOUNS),
        float(low.count('"') % 2),
        sum(a == b for a, b in itertools.pairwise(words)) / count,
        *_premise_words(premise, words),
    ]


def hashed_words(text: str) -> torch.Tensor:
    """Word and punctuation counts hashed into HASHED_WORDS places with a random sign, as a vector of length 30
    (Weinberger et al. 2009)."""
    vector = torch.zeros(HASHED_WORDS)
    tokens = _WORD.findall(plain(text))
    if tokens:
        codes = [zlib.crc32(token.encode()) for token in tokens]
        signs = torch.tensor([1.0 if code & 1 << 20 else -1.0 for code in codes])
        vector.index_add_(0, torch.tensor([code % HASHED_WORDS for code in codes]), signs)
        vector *= _WORDS_NORM / vector.norm().clamp(min=1e-6)
    return vector


def _usual(logprobs: Sequence[float]) -> tuple[float, float]:
    """Mean log-probability of the words, and the share of those under e^-11."""
    if not logprobs:
        return 0.0, 0.0
    return sum(logprobs) / len(logprobs), sum(value < -11 for value in logprobs) / len(logprobs)


def _stems(words: Sequence[str]) -> set[str]:
    return {word[:5] for word in words if len(word) > 3}


def _cohesion(sentences: Sequence[Sequence[str]]) -> tuple[float, float]:
    """Share of a sentence's longer words that the one before has; and that less what sentences three apart share."""
    stems = [_stems(sentence) for sentence in sentences]

    def shared(gap: int) -> float:
        shares = [len(a & b) / max(1, len(b)) for a, b in zip(stems, stems[gap:], strict=False)]
        return sum(shares) / len(shares) if shares else 0.0

    return shared(1), shared(1) - shared(3) if len(stems) > 3 else 0.0


def _premise_words(premise: str, words: Sequence[str]) -> tuple[float, float]:
    """Share of the premise's longer words that the story, and its second half, take up; 0 without a premise."""
    asked = _stems(_words(plain(premise)))
    if not asked:
        return 0.0, 0.0
    return len(asked & _stems(words)) / len(asked), len(asked & _stems(words[len(words) // 2 :])) / len(asked)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+(?:'\w+)?", text)


def _distinct(words: Sequence[str], size: int) -> float:
    """Mean share of different words in windows of `size` (half overlapping); of the whole text when it is shorter,
    scaled to what is usual for `size` by Heaps' law with exponent 0.8."""
    if len(words) <= size:
        return len(set(words)) / len(words) * (len(words) / size) ** 0.2
    shares = [len(set(words[at : at + size])) / size for at in range(0, len(words) - size + 1, size // 2)]
    return sum(shares) / len(shares)
