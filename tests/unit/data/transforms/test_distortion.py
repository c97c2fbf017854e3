"""Distortions against shifts, rotations and stretches that indexing can do."""

import math

import numpy as np
import pytest
import torch

from metasgd.data.class_pool import ClassPool
from metasgd.data.class_sampler import ClassSampler
from metasgd.data.rng import task_stream
from metasgd.data.task_shape import TaskShape
from metasgd.data.transforms.affine import distorted
from metasgd.data.transforms.distortion import Distorted, random_maps

SIDE = 12
SHAPE = TaskShape(3, 2, 4)


def blot(seed: int, n: int = 1) -> np.ndarray:
    """Ink in the middle of empty pictures, uint8 ``[n, 1, SIDE, SIDE]``."""
    pictures = np.zeros((n, 1, SIDE, SIDE), dtype=np.uint8)
    pictures[:, :, 4:8, 4:8] = np.random.default_rng(seed).integers(100, 256, size=(n, 1, 4, 4))
    return pictures


def seen(pictures: np.ndarray, *maps: list[list[float]]) -> np.ndarray:
    return distorted(torch.from_numpy(pictures), torch.tensor(maps)).numpy()


def test_each_picture_goes_through_its_own_map() -> None:
    a, b, c, d = blot(0, 4)
    across_by_3 = [[1.0, 0.0, 2 * 3 / SIDE], [0.0, 1.0, 0.0]]
    down_by_1 = [[1.0, 0.0, 0.0], [0.0, 1.0, 2 * 1 / SIDE]]
    quarter_turn = [[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]]
    mirrored = [[-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    got = seen(np.stack([a, b, c, d]), across_by_3, down_by_1, quarter_turn, mirrored)
    # a map leads from the place looked at to the place shown there: ink moves the other way
    np.testing.assert_array_equal(got[0], np.roll(a, -3, axis=2))
    np.testing.assert_array_equal(got[1], np.roll(b, -1, axis=1))
    np.testing.assert_array_equal(got[2, 0], np.rot90(c[0], -1))
    np.testing.assert_array_equal(got[3], d[:, :, ::-1])


def test_pictures_of_any_shape_as_torch_has_it() -> None:
    pictures = torch.from_numpy(np.random.default_rng(0).integers(0, 256, size=(50, 3, 9, 14), dtype=np.uint8))
    maps = torch.from_numpy(random_maps(np.random.default_rng(1), 50, strength=2)).float()
    grid = torch.nn.functional.affine_grid(maps, [50, 3, 9, 14], align_corners=False)
    theirs = torch.nn.functional.grid_sample(pictures.float(), grid, mode="bicubic", align_corners=False)
    assert (distorted(pictures, maps) - theirs.clamp(0, 255)).abs().max() < 0.51  # rounded


def test_beyond_the_rim_is_no_ink() -> None:
    everywhere = np.full((1, 1, SIDE, SIDE), 200, dtype=np.uint8)
    [[picture]] = seen(everywhere, [[1.0, 0.0, 2 * 5 / SIDE], [0.0, 1.0, 0.0]])
    assert (picture[:, :7] == 200).all()
    assert not picture[:, 7:].any()


def test_overshooting_interpolation_stays_within_a_byte() -> None:
    half_a_pixel = [[1.0, 0.0, 1 / SIDE], [0.0, 1.0, 0.0]]
    edge = np.zeros((1, 1, SIDE, SIDE), dtype=np.uint8)
    edge[..., 5:] = 255
    [[picture]] = seen(edge, half_a_pixel)
    rows = set(map(tuple, picture.tolist()))
    assert len(rows) == 1
    [row] = rows
    assert row[:3] == (0, 0, 0)  # cubic interpolation falls below 0 beside the edge, and above 255 behind it
    assert 100 < row[4] < 155
    assert row[6:10] == (255,) * 4


@pytest.mark.parametrize("strength", [0.5, 1.0, 3.0])
def test_maps_are_as_large_as_the_strength_allows_and_no_larger(strength: float) -> None:
    maps = random_maps(np.random.default_rng(0), 20_000, strength)
    shifts = abs(maps[:, :, 2]).max(axis=0)
    assert (0.99 * 0.12 * strength < shifts).all()
    assert (shifts <= 0.12 * strength).all()
    widths = np.hypot(maps[:, 0, 0], maps[:, 1, 0])  # the length of what a horizontal unit becomes
    assert math.log(widths.max()) == pytest.approx(0.12 * strength, rel=0.01)
    assert math.log(widths.min()) == pytest.approx(-0.12 * strength, rel=0.01)
    angles = np.arctan2(maps[:, 1, 0], maps[:, 0, 0])
    assert abs(angles).max() == pytest.approx(0.2 * strength, rel=0.01)
    assert abs(angles.mean()) < 0.01 * strength


def test_no_strength_is_no_change() -> None:
    pictures = blot(1, 5)
    maps = torch.from_numpy(random_maps(np.random.default_rng(0), 5, strength=0))
    np.testing.assert_array_equal(distorted(torch.from_numpy(pictures), maps).numpy(), pictures)


@pytest.fixture
def sampler() -> ClassSampler:
    images = blot(2, 5 * 8).reshape(5, 8, 1, SIDE, SIDE)
    pool = ClassPool.of_equal_counts(images, tuple("abcde"), np.zeros(5, dtype=np.int64))
    return ClassSampler(pool, "train", 0, SHAPE)


def test_a_task_is_a_function_of_seed_split_and_index(sampler) -> None:
    one = Distorted(sampler, 1.0, "train", seed=3)
    together, alone = one.draw(np.array([7, 2, 7])), one.draw(np.array([2]))
    for name in ("support_x", "query_x", "support_y", "query_y", "classes"):
        both = getattr(together, name)
        assert torch.equal(both[1], getattr(alone, name)[0])
        assert torch.equal(both[0], both[2])
    for other in (Distorted(sampler, 1.0, "train", seed=4), Distorted(sampler, 1.0, "val", seed=3)):
        assert not torch.equal(other.draw(np.array([2])).support_x, alone.support_x)


def test_only_the_pictures_change_and_each_differently(sampler) -> None:
    plain, moved = sampler.draw(np.arange(2)), Distorted(sampler, 1.0, "train", seed=0).draw(np.arange(2))
    for name in ("support_y", "query_y", "classes", "task_index"):
        assert torch.equal(getattr(plain, name), getattr(moved, name))
    for name in ("support_x", "query_x"):
        before, after = getattr(plain, name).flatten(0, 1), getattr(moved, name).flatten(0, 1)
        assert before.shape == after.shape
        assert before.dtype == after.dtype
        assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    images = sampler.pool.images
    images[:] = images[0]
    tasks = Distorted(sampler, 1.0, "train", seed=0).draw(np.arange(2))
    pictures = torch.cat([tasks.support_x, tasks.query_x], dim=1).flatten(0, 1)
    assert len({picture.numpy().tobytes() for picture in pictures}) == 2 * SHAPE.n_way * (SHAPE.k_shot + SHAPE.n_query)


def test_thickness_by_hand_and_the_maps_stay_as_without(sampler) -> None:
    indices, n = np.array([7, 2]), SHAPE.n_way * (SHAPE.k_shot + SHAPE.n_query)
    found = Distorted(sampler, 1.0, "train", seed=3, thickness=0.8).draw(indices)
    before = Distorted(sampler, 1.0, "train", seed=3).draw(indices)
    thinner = 0
    for b, index in enumerate(indices):
        stream = task_stream(3, "train", int(index), use="augmentation")
        random_maps(stream, n, 1.0)
        amounts = stream.uniform(-0.4, 0.8, size=n)
        for own, was, a in zip(
            torch.cat([found.support_x, found.query_x], dim=1)[b, :, 0].numpy(),
            torch.cat([before.support_x, before.query_x], dim=1)[b, :, 0].numpy().astype(np.float64),
            amounts,
            strict=True,
        ):
            around = np.lib.stride_tricks.sliding_window_view(np.pad(was, 1, mode="edge"), (3, 3))
            pooled = around.max(axis=(2, 3)) if a > 0 else around.min(axis=(2, 3))
            assert abs(own - (was + abs(a) * (pooled - was))).max() <= 0.5 + 1e-3
            thinner += a < 0
    assert 0 < thinner < 2 * n
