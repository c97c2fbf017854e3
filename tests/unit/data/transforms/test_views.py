"""Views of a task: its support set distorted, by the task's number and the view's alone."""

import numpy as np
import pytest
import torch

from metasgd.data.transforms.affine import distorted
from metasgd.data.transforms.distortion import random_maps
from metasgd.data.transforms.views import views_of
from metasgd.episode import Episode
from metasgd.errors import UserError


def tasks_of(numbers, channels=1):
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (len(numbers), 4, channels, 9, 9), dtype=torch.uint8, generator=generator)
    y = torch.arange(4).expand(len(numbers), 4)
    return Episode(x, y, x.flip(1), y, y, torch.tensor(numbers))


def test_a_view_is_a_function_of_seed_split_number_and_view():
    tasks = tasks_of([3, 8])
    first, second, third = views_of(tasks, 3, "light", "val", 5)
    assert first is tasks
    for v, view in ((1, second), (2, third)):
        assert torch.equal(view.query_x, tasks.query_x)
        for b, index in enumerate((3, 8)):
            # by hand: Philox with key (seed, split) and counter (draws, view, task's number, use)
            stream = np.random.Generator(np.random.Philox(counter=[0, v, index, 2], key=[5, 1]))
            maps = torch.from_numpy(random_maps(stream, 4, 1.0))
            assert torch.equal(view.support_x[b], distorted(tasks.support_x[b], maps))
    assert not torch.equal(second.support_x, third.support_x)
    alone = views_of(Episode(*(field[1:] for field in tasks)), 3, "light", "val", 5)[2]
    assert torch.equal(alone.support_x[0], third.support_x[1])
    others = [views_of(tasks, 2, "light", *of)[1] for of in (("test", 5), ("val", 6))]
    assert not any(torch.equal(other.support_x, second.support_x) for other in others)


def test_paper_continues_beyond_the_rim_and_photographs_are_mirrored_there():
    tasks = tasks_of([0])
    dark = views_of(tasks._replace(support_x=255 - tasks.support_x), 2, "dark", "test", 0)[1]
    light = views_of(tasks, 2, "light", "test", 0)[1]
    assert torch.equal(dark.support_x, 255 - light.support_x)
    flat = tasks_of([0], channels=3)._replace(support_x=torch.full((1, 4, 3, 9, 9), 200, dtype=torch.uint8))
    assert (views_of(flat, 2, None, "test", 0)[1].support_x == 200).all()


def test_curves_have_no_views():
    curves = tasks_of([0])._replace(support_x=torch.zeros(1, 4, 1))
    assert views_of(curves, 1, None, "test", 0) == [curves]
    with pytest.raises(UserError, match=r"eval_views is 2, but these tasks have no pictures .*: use 1"):
        views_of(curves, 2, None, "test", 0)
