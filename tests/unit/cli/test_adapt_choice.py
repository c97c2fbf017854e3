"""Which way to adapt is taken, and when it is said to be of no use."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from metasgd.cli.adapt_choice import choose
from metasgd.learner.meta_learner import MetaLearner
from metasgd.meta.model import MetaModel
from metasgd.nn import Conv4, PrototypeHead
from metasgd.rules import Fixed

Y = np.repeat(np.array(["a", "b", "c"]), 4)


def learner_of(rate: float, inner_steps: int = 3) -> MetaLearner:
    torch.manual_seed(0)
    network = Conv4(head="prototype", image_size=8, width=8)
    return MetaLearner(MetaModel(network, Fixed(rate), inner_steps=inner_steps).eval(), {"model": {}})


def pictures(signal: float) -> np.ndarray:
    """Of each class a pattern of its own, under noise."""
    generator = np.random.default_rng(5)
    patterns = generator.random((3, 1, 8, 8))
    noise = generator.random((12, 1, 8, 8))
    return (255 * (signal * patterns.repeat(4, axis=0) + (1 - signal) * noise)).astype(np.uint8)


def test_steps_that_harm_are_not_taken():
    choice = choose(learner_of(300.0), pictures(0.92), Y, None)
    assert choice.best.inner_steps == 0
    assert choice.best.right == 12
    assert choice.lines[1].startswith("nearest centroids taken, 12 right; 3 inner steps ")
    assert not choice.doubtful


def test_steps_that_do_as_well_are_taken_as_they_were_meta_trained():
    learner = learner_of(1e-3)
    choice = choose(learner, pictures(0.92), Y, None)
    assert choice.best.learner is learner
    assert choice.best.inner_steps == 3
    assert choice.lines[1] == "3 inner steps taken, 12 right; nearest centroids 12"


def test_what_the_user_asks_for_is_taken_whatever_it_does():
    choice = choose(learner_of(300.0), pictures(0.92), Y, 2)
    assert choice.best.inner_steps == 2
    assert len(choice.lines) == 1 + choice.doubtful


def test_no_better_than_chance_is_said():
    choice = choose(learner_of(1e-3), pictures(0.92), np.tile(Y[::4], 4), None)  # whose classes share patterns
    assert choice.doubtful
    assert choice.lines[-1].startswith("warning: that is no better than chance")


def test_one_picture_of_each_class_decides_nothing():
    choice = choose(learner_of(1e-3), pictures(0.92)[::4], Y[::4], None)
    assert (choice.best.inner_steps, choice.doubtful) == (3, False)
    assert choice.lines == ["leave-one-out: no class has two pictures, so none can be held against the others"]


def backbone() -> MetaLearner:
    """Whose features are the pixels."""
    network = nn.Sequential(OrderedDict(body=nn.Flatten(), head=PrototypeHead(16)))
    return MetaLearner(MetaModel(network, Fixed(), inner_steps=0).eval(), {"model": {}})


def stretched(each: int) -> tuple[np.ndarray, np.ndarray]:
    """Two classes that one pixel tells apart, and another that differs much more is of no use for."""
    x, y = np.zeros((2 * each, 1, 4, 4)), np.repeat(np.array(["a", "b"]), each)
    x[:, 0, 0, 0] = np.where(y == "a", 40, 80)
    x[:, 0, 1, 1] = 120 + np.random.default_rng(1).integers(-110, 110, 2 * each)
    return x.astype(np.uint8), y


@pytest.mark.parametrize(("each", "named"), [(8, "linear probe"), (30, "linear probe in 10 folds")])
def test_a_linear_probe_is_taken_where_it_predicts_more(each, named):
    x, y = stretched(each)
    learner = backbone()
    choice = choose(learner, x, y, None, to_scale=True)
    right = sum(label == y[i] for i, label in learner.leave_one_out(x, y))
    assert right < choice.best.right
    assert choice.lines[1] == f"{named} taken, {choice.best.right} right; nearest centroids {right}"
    assert (choice.best.learner.adapt(x, y).predict(x) == y).mean() > right / (2 * each)
    shares = torch.from_numpy(choice.left_out.outputs).softmax(dim=1).amax(dim=1)
    assert shares.mean().item() == pytest.approx((choice.best.right + 1) / (2 * each + 2), abs=0.02)


def test_of_equals_the_probe_is_taken():
    learner, x = backbone(), pictures(0.92)[:, :, :4, :4]
    choice = choose(learner, x, Y, None, to_scale=True)
    assert choice.lines[1] == "linear probe taken, 12 right; nearest centroids 12"
    found = choice.best.learner.adapt(x, Y, features=choice.best.features)
    assert (found.predict(x) == Y).all()
    assert choose(learner, x[::4], Y[::4], None, to_scale=True).best.learner is learner
    assert len(choose(learner, x, Y, 0, to_scale=True).lines) == 1
