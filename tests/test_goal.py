"""The goal classifier: its network on a tiny random one, its weights file, and what the shipped one understands."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rewards.base import StoryText
from rewards.files import write_tensors
from rewards.goal import GoalReached, Tokens, load_reader, passages, save_reader, shipped_weights
from rewards.goal_data import (
    calibration_cases,
    chosen_stories,
    contrast,
    cut_stories,
    edited_stories,
    policy_stories,
    training_stories,
    twins,
)
from rewards.reader import MAX_STORY_TOKENS, Packed, Reader, pack
from rewards.train_goal import Item, Stage, batched, calibrate, predictions, run_stage, train
from storyrl.errors import InputError
from storyrl.story import Kind, Prompt, Story, Turn

_CLS, _SEP = 1, 2


def tiny_reader() -> Reader:
    torch.manual_seed(0)
    return Reader(width=48, layers=2, vocabulary=64).eval()


def plain_forward(reader: Reader, batch: Packed) -> torch.Tensor:
    """Every layer at every place, padding too: the oracle of what `Reader` leaves out."""
    whole = replace(batch, real=torch.arange(batch.ids.numel()))
    x = reader.norm(reader.words(batch.ids) + reader.places(batch.positions) + reader.kinds((batch.segment > 0).long()))
    bias = torch.zeros(batch.may_attend().shape).masked_fill(~batch.may_attend(), -1e9)[:, None]
    x = x.flatten(0, 1)
    for layer in reader.layers:
        x = layer(x, [whole], [bias])
    x = x.view(*batch.ids.shape, -1)[batch.goal_rows, batch.goal_columns]
    return reader.answer(torch.tanh(reader.pool(x))).squeeze(1)


def test_packing_by_hand() -> None:
    batch = pack([[5, 6], [7]], [[[8], [9, 9]], [[3]]], _CLS, _SEP)
    assert batch.ids.tolist() == [[1, 5, 6, 2, 1, 8, 2, 1, 9, 9, 2], [1, 7, 2, 1, 3, 2, 0, 0, 0, 0, 0]]
    assert batch.segment[0].tolist() == [0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2]
    start = MAX_STORY_TOKENS
    assert batch.positions[0].tolist() == [0, 1, 2, 3, start, start + 1, start + 2, *range(start, start + 4)]
    assert (batch.goal_rows.tolist(), batch.goal_columns.tolist()) == ([0, 0, 1], [4, 7, 3])
    seen = batch.may_attend()
    assert seen[0, 0].tolist() == [True] * 4 + [False] * 7  # a story token sees the story
    assert seen[0, 7].tolist() == [True] * 4 + [False] * 3 + [True] * 4  # a goal sees the story and itself
    assert not seen[1, :, 6:].any()  # nobody sees padding


def test_answers_do_not_depend_on_other_goals_stories_or_padding() -> None:
    reader = tiny_reader()
    with torch.no_grad():
        together = reader(pack([[5, 6, 7], [8] * 20], [[[9, 10], [11]], [[12, 13, 14]]], _CLS, _SEP))
        alone = [
            reader(pack([story], [[goal]], _CLS, _SEP))
            for story, goal in (([5, 6, 7], [9, 10]), ([5, 6, 7], [11]), ([8] * 20, [12, 13, 14]))
        ]
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)


def test_several_batches_are_read_as_each_by_itself() -> None:
    reader = tiny_reader()
    batches = [
        pack([[5, 6, 7], [8] * 20], [[[9, 10], [11]], [[12, 13, 14]]], _CLS, _SEP),
        pack([[4, 4], [6, 5]], [[[9]], [[7]]], _CLS, _SEP),
    ]
    with torch.no_grad():
        assert torch.allclose(reader(*batches), torch.cat([reader(batch) for batch in batches]), atol=1e-6)
    reader(*batches).sum().backward()
    assert all(parameter.grad is not None for parameter in reader.parameters())


def test_leaving_out_padding_and_most_of_the_last_layer_changes_nothing() -> None:
    reader, batch = tiny_reader(), pack([[5, 6, 7], [8] * 9], [[[9, 10], [11]], [[12, 13, 14]]], _CLS, _SEP)
    assert len(batch.real) < batch.ids.numel()
    with torch.no_grad():
        assert torch.allclose(reader(batch), plain_forward(reader, batch), atol=1e-6)


def test_weights_file_keeps_the_answers(tmp_path: Path) -> None:
    """Eight bits a weight change a log-odds by little; the calibration comes back as it was."""
    reader, (scale, shift) = load_reader(shipped_weights())
    save_reader(reader, (2.0, -0.5), tmp_path / "goal.safetensors")
    again, calibration = load_reader(tmp_path / "goal.safetensors")
    assert calibration == (2.0, -0.5)
    assert scale > 0
    for name, tensor in reader.state_dict().items():
        assert torch.allclose(tensor, again.state_dict()[name], atol=1e-3 * float(tensor.abs().max())), name
    assert shipped_weights().stat().st_size < 12_000_000
    assert shift == shift  # a number


def test_wrong_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no weights"):
        load_reader(tmp_path / "none.safetensors")
    write_tensors({"calibration": torch.tensor([1.0, 0.0])}, tmp_path / "odd.safetensors")
    with pytest.raises(InputError, match="no goal weights"):
        load_reader(tmp_path / "odd.safetensors")


def test_nothing_held_out_is_trained_on() -> None:
    trained_on = {case.story for case in training_stories()}
    assert not trained_on & {case.story for case in calibration_cases()}
    for kind in (contrast, twins, policy_stories, chosen_stories, edited_stories, cut_stories):
        held_out, trained = kind(held_out=True), kind(held_out=False)
        assert held_out and trained
        assert not {case.group for case in held_out} & {case.group for case in trained}
        assert not {case.story for case in held_out} & {case.story for case in trained}


def test_an_edited_story_reaches_one_goal_the_prompts_in_two_of_four() -> None:
    cases = edited_stories(held_out=False)
    assert len(cases) == 4 * 315
    assert all(sum(case.reached) == 1 and len(case.goals) == 3 for case in cases)
    assert [case.reached[0] for case in cases] == [True, True, False, False] * 315
    assert all(len(case.story.split("\n\n")) <= 3 for case in cases)


def test_cut_stories_do_not_give_themselves_away_by_length() -> None:
    cases = cut_stories(held_out=False)
    words = {happened: [len(c.story.split()) for c in cases if c.reached == (happened,)] for happened in (True, False)}
    means = {happened: sum(lengths) / len(lengths) for happened, lengths in words.items()}
    assert len(words[True]) == len(words[False]) > 200
    assert abs(means[True] - means[False]) < 12


def made_up_items(count: int, seed: int) -> list[Item]:
    """Stories of two pieces of two tokens from 3 to 10; a goal is one token, reached where it stands in one of them."""
    rng = random.Random(seed)
    items = []
    for _ in range(count):
        pieces = [[rng.randint(3, 10) for _ in range(2)] for _ in range(2)]
        told = sorted({token for piece in pieces for token in piece})
        goals = [rng.choice(told), rng.choice(sorted(set(range(3, 11)) - set(told)))]
        items.append(Item(pieces, [[goal] for goal in goals], [1.0, 0.0], _CLS, _SEP))
    return items


def test_training_learns_and_generalises_on_a_tiny_network() -> None:
    reader = tiny_reader()
    train(reader, made_up_items(400, seed=0), Stage("tiny", 20, 700, 3e-3, whole=False))
    logits, labels = predictions(reader, made_up_items(100, seed=1))
    assert ((logits > 0) == (labels > 0.5)).float().mean() > 0.9


def test_a_kept_stage_is_not_trained_again(tmp_path: Path) -> None:
    stage, reader = Stage("tiny", 1, 4000, 1e-3, whole=False), Reader(width=48, layers=2)
    before = reader.answer.weight.clone()
    run_stage(stage, reader, Tokens(), lambda: twins(held_out=False)[:3], tmp_path)
    assert not torch.equal(reader.answer.weight, before)
    again = Reader(width=48, layers=2)
    run_stage(stage, again, Tokens(), lambda: pytest.fail("trained again"), tmp_path)
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in reader.state_dict().items())


def test_batches_hold_every_item_once_and_no_more_tokens_than_asked() -> None:
    tokens = Tokens()
    items = [Item.of(case, tokens) for case in twins(held_out=False)[:20]]
    batches = batched(items, 3000, random.Random(0))
    assert sorted(id(item) for batch in batches for item in batch) == sorted(map(id, items))
    for batch in batches:
        rows = sum(len(item.pieces) for item in batch)
        assert len(batch) == 1 or rows * max(item.row_length() for item in batch) <= 3000


def test_calibration_recovers_a_known_scale_and_shift(monkeypatch: pytest.MonkeyPatch) -> None:
    """Log-odds that are twice too large and 1 too high are put right."""
    generator = torch.Generator().manual_seed(0)
    truth = 2 * torch.randn(20_000, generator=generator)
    labels = (torch.rand(20_000, generator=generator) < torch.sigmoid(truth)).float()
    monkeypatch.setattr("rewards.train_goal.predictions", lambda *_: (2 * truth + 1, labels))
    scale, shift = calibrate(tiny_reader(), [])
    assert scale == pytest.approx(0.5, abs=0.03)
    assert shift == pytest.approx(-0.5, abs=0.05)


def test_no_goal_and_no_story_score_zero() -> None:
    assert (
        GoalReached().score([StoryText("It rained."), StoryText("", "It rains."), StoryText(" \n", "It rains.")])
        == [0.0] * 3
    )
    assert GoalReached().score([]) == []


def test_passages_carry_their_speaker() -> None:
    text = (
        '"I have it. Look here!" said Oona.\n\nThe dog barked. It ran off.\n\n"Well. No. Yes. Perhaps," said Tom Hart.'
    )
    assert passages(text) == [
        '"I have it. Look here!" said Oona.',
        "The dog barked. It ran off.",
        '"Well. No. Yes. said Tom Hart.',
        'Perhaps," said Tom Hart.',
    ]
    assert passages(" ") == []


def test_passages_are_short_and_lose_no_word() -> None:
    long, short = "One day " + "the rain went on " * 30 + "there.", "It rained again on the road and on the house."
    text = " ".join([short] * 7 + [long] + [short])
    assert passages(text) == [" ".join([short] * 3)] * 2 + [short, long, short]
    assert passages(" ".join(["word " * 24 + "end."] * 3)) == [
        " ".join(["word " * 24 + "end."] * 2),
        "word " * 24 + "end.",
    ]


def test_a_long_story_is_read_whole() -> None:
    """What happens in its first or last words counts, however long the story is."""
    scorer = GoalReached()
    filler = "The rain went on and nothing else happened on the road. " * 120
    event, goal = "Tom opened the gate. ", "Tom opens the gate."
    none, early, late = scorer.score([StoryText(text, goal) for text in (filler, event + filler, filler + event)])
    assert min(early, late) > none + 0.2


def test_progress_rises_at_the_turn_that_reaches_the_goal() -> None:
    texts = (
        "Mira sat in the kitchen and said nothing.",
        "Her brother came in from the rain.",
        "Tom opened the gate.",
    )
    turns = tuple(Turn(kind=Kind.NARRATE, actor=None, text=text) for text in texts)
    story = Story(id="s", prompt=Prompt(premise="A yard.", goal="Tom opens the gate."), turns=turns)
    first, second, third = GoalReached().progress(story)
    assert third > max(first, second) + 0.2


def test_it_tells_what_has_happened_in_the_policys_own_stories() -> None:
    """On stories of held-out prompts, goals that a reader wrote for them, half of them reached; measured: 0.94."""
    cases = policy_stories(held_out=True)[::4]
    asked = [
        (StoryText(case.story, goal), reached)
        for case in cases
        for goal, reached, kind in zip(case.goals, case.reached, case.kinds, strict=True)
        if kind == "written"
    ]
    scores = GoalReached().score([story for story, _ in asked])
    yes = [score for score, (_, reached) in zip(scores, asked, strict=True) if reached]
    no = [score for score, (_, reached) in zip(scores, asked, strict=True) if not reached]
    auc = sum((a > b) + 0.5 * (a == b) for a in yes for b in no) / (len(yes) * len(no))
    assert len(asked) > 150
    assert auc > 0.85
