"""The measures of the rewards' bench, by numbers worked out by hand."""

import numpy as np
import pytest

from tests.bench import metrics, tuned_run


def _value(measure: metrics.Measure, rows: int) -> float:
    return float(measure(np.ones((1, rows)))[0])


def test_auc_counts_pairs_and_half_of_ties() -> None:
    # Positives 0.8 and 0.4, negatives 0.4 and 0.1: above, above, tie, above = 3.5 of 4.
    scores, labels = np.array([0.8, 0.4, 0.4, 0.1]), np.array([True, True, False, False])
    assert _value(metrics.auc(scores, labels), 4) == pytest.approx(3.5 / 4)


def test_auc_with_weights_is_that_of_repeated_rows() -> None:
    scores, labels = np.array([3.0, 1.0, 2.0, 0.0]), np.array([True, True, False, False])
    # The first row twice, the last left out: positives 3, 3, 1 against 2 = 2 of 3. Without negatives there is none.
    values = metrics.auc(scores, labels)(np.array([[2.0, 1, 1, 0], [1, 1, 0, 0]]))
    assert values[0] == pytest.approx(2 / 3)
    assert np.isnan(values[1])


def test_macro_f1() -> None:
    # Yes: 1 hit, 1 false alarm, 0 missed: 2 / 3. No: 2 hits, 0 false alarms, 1 missed: 4 / 5.
    predicted, labels = np.array([True, True, False, False]), np.array([True, False, False, False])
    assert _value(metrics.macro_f1(predicted, labels), 4) == pytest.approx((2 / 3 + 4 / 5) / 2)


def test_calibration_error_weighs_bins_by_size() -> None:
    # Bin 0.2: mean 0.25, share 0.5, gap 0.25, two rows. Last bin: mean 1, share 1. First: 0.05 against 1, one row.
    probabilities, labels = np.array([0.2, 0.299, 1.0, 0.05]), np.array([True, False, True, True])
    gap = abs((0.2 + 0.299) - 1) + 0 + 0.95
    assert _value(metrics.calibration_error(probabilities, labels), 4) == pytest.approx(gap / 4)
    assert [row["n"] for row in metrics.reliability(probabilities, labels)] == [1, 2, 1]


def test_share_of_sets_with_every_goal_right() -> None:
    right = np.array([True, True, False, True, True])
    assert _value(metrics.all_right(right, ["a", "a", "b", "b", "c"]), 5) == pytest.approx(2 / 3)


def test_spearman() -> None:
    # Ranks 1 2 3 4 and 2 1 4 3: 1 - 6 * 4 / (4 * 15) = 0.6.
    assert metrics.spearman(np.array([10, 20, 30, 40]), np.array([2, 1, 9, 5])) == pytest.approx(0.6)
    assert metrics.ranks(np.array([5.0, 1, 5, 7])).tolist() == [2.5, 1, 2.5, 4]
    assert metrics.spearman(np.ones(3), np.arange(3)) is None


def test_interval_covers_the_value_and_resamples_clusters() -> None:
    values = np.repeat([0.0, 1.0], 50)
    alone = metrics.estimate(metrics.mean(values), [str(row) for row in range(100)])
    together = metrics.estimate(metrics.mean(values), [str(row // 10) for row in range(100)])
    assert alone["value"] == together["value"] == 0.5
    # Standard errors: 0.5 / sqrt(100) and 0.5 / sqrt(10).
    assert alone["high"] - alone["low"] == pytest.approx(2 * 1.96 * 0.05, abs=0.03)
    assert together["high"] - together["low"] == pytest.approx(2 * 1.96 * 0.158, abs=0.12)
    assert metrics.estimate(metrics.mean(np.zeros(0)), [])["value"] is None


def test_what_readers_say_of_the_tuning_run(capsys: pytest.CaptureFixture[str]) -> None:
    """As README has it; the intervals are of a fixed seed, the last lines of the shipped goal weights."""
    tuned_run.main()
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "240 stories a side; the two readings agree on 0.954 of the 480 goals"
    assert lines[1] == "reached, both readers 0.017 -> 0.108 +0.092 [+0.054, +0.133] of 240 a side"
    assert lines[3] == "reader 1 prefers after 0.825 [0.750, 0.892]"
    *_, last = lines  # another processor rounds a score otherwise
    assert last.startswith("goal score, AUC after 0.71")
    assert "33 reached" in last
    assert int(last.split()[-5]) == pytest.approx(40, abs=1)
