"""Rotated tasks against numpy's rotations of the same tasks."""

from collections import Counter

import numpy as np
import pytest
import torch

from metasgd.data.class_pool import ClassPool
from metasgd.data.class_sampler import ClassSampler
from metasgd.data.task_shape import TaskShape
from metasgd.data.transforms.rotation import Rotated

SHAPE = TaskShape(3, 2, 4)
N_TASKS = 40


@pytest.fixture
def plain() -> ClassSampler:
    images = np.random.default_rng(0).integers(0, 256, size=(30, 2, 5, 5), dtype=np.uint8)
    pool = ClassPool(
        images=images,
        starts=np.arange(0, 30, 6),
        counts=np.full(5, 6),
        names=tuple("abcde"),
        groups=np.zeros(5, dtype=np.int64),
    )
    return ClassSampler(pool, "test", 3, SHAPE)


def quarters_of(original: np.ndarray, rotated: np.ndarray) -> int:
    """How many times each of these pictures was rotated by 90°, the same for all of them."""
    [quarters] = [t for t in range(4) if np.array_equal(np.rot90(original, t, axes=(-2, -1)), rotated)]
    return quarters


def test_each_class_has_a_rotation_of_its_own_in_support_and_query_alike(plain: ClassSampler) -> None:
    own, rotated = plain.draw(np.arange(N_TASKS)), Rotated(plain, "test", 3).draw(np.arange(N_TASKS))
    n, k, q = SHAPE.n_way, SHAPE.k_shot, SHAPE.n_query
    found: Counter[int] = Counter()
    for b in range(N_TASKS):
        for way in range(n):
            shots, queries = slice(way * k, (way + 1) * k), slice(way * q, (way + 1) * q)
            quarters = quarters_of(own.support_x[b, shots].numpy(), rotated.support_x[b, shots].numpy())
            assert quarters == quarters_of(own.query_x[b, queries].numpy(), rotated.query_x[b, queries].numpy())
            found[quarters] += 1
    # 120 fair draws of four: fewer than 10 of one comes once in a million
    assert set(found) == {0, 1, 2, 3}
    assert min(found.values()) >= 10
    for field in ("support_y", "query_y", "classes", "task_index"):
        assert torch.equal(getattr(own, field), getattr(rotated, field))


def test_a_task_does_not_depend_on_those_drawn_with_it(plain: ClassSampler) -> None:
    sampler = Rotated(plain, "test", 3)
    together, alone = sampler.draw(np.array([4, 9])), sampler.draw(np.array([9]))
    assert torch.equal(together.support_x[1:], alone.support_x)
    assert torch.equal(together.query_x[1:], alone.query_x)


def test_the_tasks_that_are_rotated_stay_as_they_are(plain: ClassSampler) -> None:
    before = plain.pool.images.copy()
    Rotated(plain, "test", 3).draw(np.arange(5))
    np.testing.assert_array_equal(plain.pool.images, before)
