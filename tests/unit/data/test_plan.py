"""Tasks made of plans are those that the samplers draw."""

import numpy as np
import pytest
import torch

from metasgd.data.class_pool import ClassPool
from metasgd.data.class_sampler import ClassSampler
from metasgd.data.plan import PlanningSampler, tasks_of, with_pictures
from metasgd.data.sinusoid import Sinusoid
from metasgd.data.task_shape import TaskShape
from metasgd.data.transforms.augmentation import Augmented
from metasgd.data.transforms.distortion import Distorted
from metasgd.data.transforms.in_turn import in_turn
from metasgd.data.transforms.rotation import Rotated


@pytest.fixture(params=["plain", "one alphabet", "rotated", "distorted", "both", "thickened", "in turn"])
def sampler(request: pytest.FixtureRequest) -> PlanningSampler:
    images = np.random.default_rng(0).integers(0, 256, size=(12, 7, 2, 6, 6), dtype=np.uint8)
    names = tuple(f"{c // 6}/{c}" for c in range(12))
    pool = ClassPool.of_equal_counts(images, names, np.arange(12) // 6).select(np.arange(11, 0, -1))
    plain = ClassSampler(pool, "train", 3, TaskShape(4, 2, 3, request.param == "one alphabet"))
    made: dict[str, PlanningSampler] = {
        "rotated": Rotated(plain, "train", 3),
        "distorted": Distorted(plain, 1.5, "train", 3),
    }
    made["both"] = Distorted(Rotated(plain, "train", 3), 1.5, "train", 3)
    made["thickened"] = Distorted(plain, 0.5, "train", 3, thickness=0.8)
    found = made.get(request.param, plain)
    if request.param == "in turn":
        turns = in_turn([made["distorted"], plain], 10)
        assert isinstance(turns, PlanningSampler)
        return turns
    return found


@pytest.mark.parametrize("looked_up", [False, True])
def test_the_tasks_of_a_plan_are_those_that_are_drawn_to_the_bit(sampler: PlanningSampler, looked_up: bool) -> None:
    indices = np.array([5, 0, 9])
    plan, images = sampler.plan(indices), torch.from_numpy(sampler.pool.images)
    found = tasks_of(with_pictures(plan, sampler.pool), None) if looked_up else tasks_of(plan, images)
    expected = sampler.draw(indices)
    for name, own, drawn in zip(expected._fields, found, expected, strict=True):
        assert own.dtype == drawn.dtype, name
        assert torch.equal(own, drawn), name


def test_a_plan_is_small_and_no_number_of_it_is_rounded(sampler: PlanningSampler) -> None:
    plan = sampler.plan(np.arange(2))
    tensors = [t for t in plan if isinstance(t, torch.Tensor)]
    assert {t.dtype for t in tensors} == {torch.int64}
    assert sum(t.numel() for t in tensors) < 2 * 20 * 10


def test_other_samplers_draw_tasks_alone() -> None:
    curves = Sinusoid().sampler("train", None, None, 0, TaskShape(1, 5, 5))  # type: ignore[arg-type]
    assert not isinstance(curves, PlanningSampler)
    assert not isinstance(Augmented(curves, [], "train", 0), PlanningSampler)
