"""A packed plan is the plan, wherever it was sent."""

import pickle
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch
from torch import Tensor

from metasgd.data.class_pool import ClassPool
from metasgd.data.class_sampler import ClassSampler
from metasgd.data.packed_plan import PackedPlan
from metasgd.data.plan import Plan, with_pictures
from metasgd.data.task_shape import TaskShape
from metasgd.data.transforms.distortion import Distorted
from metasgd.data.transforms.rotation import Rotated


def plans() -> dict[str, Plan]:
    images = np.random.default_rng(0).integers(0, 256, size=(8, 5, 1, 4, 4), dtype=np.uint8)
    pool = ClassPool.of_equal_counts(images, tuple(map(str, range(8))), np.zeros(8, dtype=np.int64))
    plain = ClassSampler(pool, "val", 3, TaskShape(4, 2, 3, False))
    distorted = Distorted(Rotated(plain, "val", 3), 1.5, "val", 3, thickness=0.5)
    numbers = np.array([2, 7])
    return {
        "plain": plain.plan(numbers),
        "rotated": Rotated(plain, "val", 3).plan(numbers),
        "all fields": with_pictures(distorted.plan(numbers), pool),
    }


def assert_same(found: Plan, expected: Plan) -> None:
    for name, own, given in zip(expected._fields, found, expected, strict=True):
        if isinstance(given, Tensor):
            assert own.dtype == given.dtype, name
            assert torch.equal(own, given), name
        else:
            assert own == given, name


@pytest.mark.parametrize("name", ["plain", "rotated", "all fields"])
def test_it_is_the_plan_to_the_bit_after_its_way_to_another_process(name: str) -> None:
    expected = plans()[name]
    packed = PackedPlan.of(expected)
    assert_same(packed.plan(), expected)
    assert_same(pickle.loads(pickle.dumps(packed)).plan(), expected)
    assert_same(packed.to(torch.device("cpu")).plan(), expected)


def test_no_number_goes_through_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = PackedPlan.of(plans()["rotated"])
    monkeypatch.setattr("torch.multiprocessing.reductions.reduce_storage", lambda storage: pytest.fail(str(storage)))
    sent = pickle.loads(bytes(ForkingPickler.dumps(packed)))
    assert_same(sent.plan(), packed.plan())


def test_what_arrives_can_be_written_to() -> None:
    sent = pickle.loads(pickle.dumps(PackedPlan.of(plans()["plain"])))
    assert sent.numbers.numpy().flags.writeable


def test_it_moves_as_one_tensor_and_its_pictures() -> None:
    packed = PackedPlan.of(plans()["all fields"])
    there = packed.to(torch.device("meta"))
    assert there.numbers.is_meta
    assert there.pictures is not None
    assert there.pictures.is_meta
    assert there.plan().rows.shape == packed.plan().rows.shape
