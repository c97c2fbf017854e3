import math

import numpy as np
import pytest

from metasgd.supervised.comparison import Row
from metasgd.supervised.suite.scores import (
    Outcome,
    interquartile_mean,
    loss_ratio,
    outcome_of,
    ranks,
    scores,
    speed_up,
)
from metasgd.supervised.trainer import Trace

STEPS = np.array([0.0, 10, 20, 30, 40])


def outcome(val, test, diverged=0):
    val = np.array(val, dtype=float)
    return Outcome(STEPS[: val.shape[1]], val, np.array(test, dtype=float), np.zeros(len(test)), diverged)


@pytest.mark.parametrize(
    ("values", "mean"),
    [([5.0], 5.0), ([1.0, 2.0, 9.0], 4.0), ([9.0, 1.0, 2.0, 4.0], 3.0), (list(range(10)), 4.5)],
)
def test_the_interquartile_mean_leaves_a_quarter_out_at_each_end(values, mean):
    assert interquartile_mean(np.array(values, dtype=float)) == mean


def test_the_ratio_of_losses_is_that_of_the_means():
    assert loss_ratio(np.array([1.0, 3.0]), np.array([0.5, 0.5])) == 4
    assert loss_ratio(np.array([1.0, 3.0]), np.array([0.5, np.inf])) == 0
    assert loss_ratio(np.array([np.inf]), np.array([np.inf])) == 1


@pytest.mark.parametrize(
    ("own", "ratio"),
    [
        ([[9, 5, 4, 3, 2]], 1.0),
        ([[9, 2, 2, 2, 2]], 4.0),
        ([[9, 9, 2, 1, 1]], 2.0),
        ([[9, 5, 4, 3, 2.1]], 0.0),
        ([[9, 3, 1, 1, 1], [9, 3, 3, 2, 3]], 2.0),  # the mean curve is there at step 20
        ([[9, np.inf, np.inf, np.inf, np.inf]], 0.0),
    ],
)
def test_the_speed_up_counts_steps_to_the_references_last_loss(own, ratio):
    reference = np.array([[9.0, 5, 4, 3, 2]])
    assert speed_up(STEPS, reference, np.array(own, dtype=float)) == ratio


def test_a_reference_that_overfits_is_at_its_last_loss_early():
    assert speed_up(STEPS, np.array([[9.0, 3, 1, 2, 3]]), np.array([[9.0, 5, 4, 3, 2]])) == pytest.approx(10 / 30)


def test_equal_losses_share_their_ranks():
    assert ranks([2.0, 1.0, 2.0, math.inf]) == [2.5, 1.0, 2.5, 4.0]


def test_all_scores_by_hand():
    found = scores(
        {
            "a": {"R": outcome([[4, 2]], [2.0]), "X": outcome([[4, 1]], [1.0]), "Y": outcome([[4, 3]], [4.0])},
            "b": {
                "R": outcome([[4, 2]], [3.0]),
                "X": outcome([[4, 2]], [4.0]),
                "Y": outcome([[4, np.inf]], [np.inf], diverged=1),
            },
        },
        "R",
    )
    assert list(found) == ["R", "X", "Y"]  # R: ranks 2 and 1, X: 1 and 2, in the order that they came in
    x, y = found["X"], found["Y"]
    assert x.loss_ratio == pytest.approx((2 + 0.75) / 2)
    assert x.loss_interval == (0.75, 2.0)  # of two workloads, one may be drawn twice
    assert (x.speed_up, x.speed_interval) == (1.0, (1.0, 1.0))
    assert (x.worst_ratio, x.worst_on, x.mean_rank) == (0.75, "b", 1.5)
    assert (y.loss_ratio, y.speed_up, y.worst_ratio, y.worst_on) == (0.25, 0.0, 0.0, "b")
    assert (y.mean_rank, y.diverged, y.trainings) == (3.0, 1, 2)
    assert found["R"].loss_ratio == found["R"].speed_up == 1


def test_a_training_that_diverged_counts_as_infinite_from_there():
    fine = Trace([0, 10, 20], [0] * 3, [0] * 3, [3.0, 2.0, 1.0], [0] * 3, test_metric=0.5, test_loss=1.5)
    lost = Trace([0, 10], [0] * 2, [0] * 2, [3.0, math.nan], [0] * 2, diverged=True, test_loss=math.nan)
    found = outcome_of(Row("x", 1.0, False, {}, [fine, lost]), [0, 10, 20])
    assert found.val_loss.tolist() == [[3, 2, 1], [3, math.inf, math.inf]]
    assert found.test_loss.tolist() == [1.5, math.inf]
    assert found.diverged == 1
