"""Which way to adapt is taken, and when it is said to be of no use."""

import numpy as np
import pytest
import torch

from metasgd.cli.adapt_learner import choose, given_learner
from metasgd.errors import UserError
from metasgd.learner.meta_learner import MetaLearner
from metasgd.meta.model import MetaModel
from metasgd.nn import Conv4
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
    assert choice.lines[1].startswith("no inner step taken: 3 inner steps would get ")
    assert not choice.doubtful


def test_steps_that_do_as_well_are_taken_as_they_were_meta_trained():
    learner = learner_of(1e-3)
    choice = choose(learner, pictures(0.92), Y, None)
    assert choice.best.learner is learner
    assert choice.best.inner_steps == 3
    assert choice.lines[1] == "3 inner steps taken: no inner step would get 12 right"


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


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "--ckpt_path and --backbone are both missing: give a checkpoint"),
        ({"ckpt_path": "omniglot", "backbone": "resnet18"}, "--ckpt_path and --backbone are both given"),
        ({"ckpt_path": "omniglot", "weights": "w.pt"}, "--weights is w.pt, but there is no --backbone"),
        ({"backbone": "resnet18", "inner_steps": 2}, "--inner_steps is 2, but a backbone has no learned rates"),
        ({"backbone": "resnet19"}, "--backbone is 'resnet19'.*Near names: resnet18"),
        ({"backbone": "resnet18", "weights": "gone"}, "--weights is gone, which is no file here, nor one of"),
        (
            {"ckpt_path": "omniglt"},
            "--ckpt_path is omniglt, which is neither a file nor the name .*one of glyphs, omni",
        ),
        ({"ckpt_path": "sinusoid"}, "--ckpt_path is sinusoid, which was not trained to tell pictures apart"),
    ],
)
def test_what_cannot_be_adapted_is_one_message(options, said):
    arguments = {"ckpt_path": None, "backbone": None, "weights": None, "inner_steps": None, "trust": False}
    with pytest.raises(UserError, match=said) as it:
        given_learner(**{**arguments, **options})
    assert len(it.value.problems) == 1


def test_a_checkpoint_is_found_by_its_name():
    given = given_learner("omniglot", None, None, None, False)
    assert given.ink == "light"
    assert given.form.channels == 1
    assert given.files[0].endswith("checkpoints/omniglot/model.ckpt")
