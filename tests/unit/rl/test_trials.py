from pathlib import Path

import numpy as np
import pytest
import torch

from metasgd.data.task_shape import TaskShape
from metasgd.errors import UserError
from metasgd.rl.trials import Trials

SHAPE = TaskShape(1, 3, 2)


def sampler(split="train", seed=0, shape=SHAPE):
    return Trials().sampler(split, Path(), Path(), seed, shape)


def test_a_task_is_a_function_of_seed_split_and_index():
    drawn, alone = sampler().draw(np.array([4, 9])), sampler().draw(np.array([9]))
    assert all(torch.equal(a[1:], b) for a, b in zip(drawn, alone, strict=True))
    others = [sampler("val"), sampler(seed=1)]
    assert not any((other.draw(np.array([4, 9])).support_x == drawn.support_x).any() for other in others)


def test_every_trajectory_has_a_number_of_its_own_and_those_of_a_task_the_tasks():
    drawn = sampler().draw(np.arange(50))
    assert (drawn.support_x.shape, drawn.query_x.shape) == ((50, 3), (50, 2))
    numbers = torch.cat([drawn.support_x, drawn.query_x, drawn.support_y[:, :1]], dim=1)
    assert len(numbers.unique()) == numbers.numel()
    assert numbers.min() >= 0
    assert (drawn.query_y == drawn.support_y[:, :1]).all()


def test_classes_and_alphabets_are_refused():
    with pytest.raises(UserError, match="n_way is 5.*\n?.*one_alphabet is true"):
        sampler(shape=TaskShape(5, 1, 1, one_alphabet=True))
