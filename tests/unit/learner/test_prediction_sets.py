"""Prediction sets cover as often as theory says where examples are exchangeable; few examples are refused."""

import numpy as np
import pytest
import torch

from metasgd.errors import UserError
from metasgd.learner.prediction_sets import LeftOut


def drawn(tasks, n, seed=0):
    """Logits ``[tasks, n, 4]`` of examples drawn alike, and their classes: the true one's is higher by 1 on average."""
    chance = np.random.default_rng(seed)
    targets = chance.integers(0, 4, (tasks, n))
    outputs = chance.normal(size=(tasks, n, 4))
    np.put_along_axis(outputs, targets[..., None], np.take_along_axis(outputs, targets[..., None], -1) + 1, -1)
    return outputs, targets


@pytest.mark.parametrize(("n", "coverage"), [(9, 0.9), (20, 0.8), (39, 0.95), (20, 0.5)])
def test_the_true_class_is_covered_with_the_probability_of_exchangeable_ranks(n, coverage):
    """``⌈(n + 1) c⌉ / (n + 1)`` by the scores alone; the likeliest class, always in a set, only adds to it."""
    outputs, targets = drawn(4000, n + 1)
    sets = np.stack([LeftOut(o[:n], t[:n]).sets(o[n:], coverage)[0] for o, t in zip(outputs, targets, strict=True)])
    scores = 1 - torch.from_numpy(outputs).softmax(dim=2)
    of_truth = scores.gather(2, torch.from_numpy(targets)[..., None])[..., 0]
    exact = np.ceil(round((n + 1) * coverage, 6)) / (n + 1)
    bound = of_truth[:, :n].kthvalue(round(exact * (n + 1)), dim=1).values
    by_score = scores[:, n] <= bound[:, None]
    deviation = np.sqrt(exact * (1 - exact) / 4000)
    assert (of_truth[:, n] <= bound).double().mean() == pytest.approx(exact, abs=4 * deviation)
    likeliest = torch.nn.functional.one_hot(scores[:, n].argmin(dim=1), 4).bool()
    assert (torch.from_numpy(sets) == (by_score | likeliest)).all()


def test_the_score_of_rank_is_the_bound():
    """By hand: scores 0.1, 0.2, 0.4 of three left out, of which a coverage of 0.75 takes the third, 0.5 the second."""
    logits = np.log([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6]])
    left_out = LeftOut(logits, np.array([0, 0, 1]))
    asked = np.log([[0.7, 0.3], [0.61, 0.39], [0.5, 0.5], [0.6001, 0.3999]])
    assert left_out.sets(asked, 0.75).tolist() == [[True, False], [True, False], [True, False], [True, False]]
    wide = LeftOut(np.log([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4]]), np.array([0, 0, 1]))
    assert wide.sets(asked, 0.75).tolist() == [[True, False], [True, False], [True, True], [True, False]]
    assert wide.sets(asked, 0.5).sum(axis=1).tolist() == [1, 1, 1, 1]


def test_a_share_of_known_examples_is_called_unknown():
    outputs, targets = drawn(4000, 20)
    found = [LeftOut(o[:19], t[:19]).unknown(o[19:], 0.1)[0] for o, t in zip(outputs, targets, strict=True)]
    assert np.mean(found) == pytest.approx(0.1, abs=4 * np.sqrt(0.1 * 0.9 / 4000))  # 2 of 20 ranks
    assert LeftOut(outputs[0], targets[0]).unknown(outputs[0, :3] - 50, 0.1).all()


@pytest.mark.parametrize(("coverage", "n"), [(0.5, 1), (0.9, 9), (0.95, 19), (0.8, 4)])
def test_too_few_examples_are_refused_with_how_many_are_needed(coverage, n):
    outputs, targets = drawn(1, n)
    LeftOut(outputs[0], targets[0]).sets(outputs[0], coverage)
    LeftOut(outputs[0], targets[0]).unknown(outputs[0], 1 - coverage)
    fewer = LeftOut(outputs[0, 1:], targets[0, 1:])
    with pytest.raises(UserError, match=f"needs at least {n} support examples whose class has others: there are"):
        fewer.sets(outputs[0], coverage)
    with pytest.raises(UserError, match=f"needs at least {n} support examples"):
        fewer.unknown(outputs[0], 1 - coverage)


@pytest.mark.parametrize("share", [0, 1, -0.5, float("nan")])
def test_a_share_is_between_0_and_1(share):
    outputs, targets = drawn(1, 20)
    with pytest.raises(UserError, match="above 0 and below 1"):
        LeftOut(outputs[0], targets[0]).sets(outputs[0], share)
    with pytest.raises(UserError, match="above 0 and below 1"):
        LeftOut(outputs[0], targets[0]).unknown(outputs[0], share)
