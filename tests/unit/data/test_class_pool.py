import re
import sys
from pathlib import Path

import numpy as np
import pytest

from metasgd.data import class_pool
from metasgd.data.cache import load_or_build
from metasgd.data.class_pool import ClassPool


@pytest.fixture
def pool():
    """Four classes in two groups, three drawings each, every pixel known."""
    images = np.arange(4 * 3 * 1 * 2 * 2, dtype=np.uint8).reshape(4, 3, 1, 2, 2)
    return ClassPool.of_equal_counts(images, ("A/1", "A/2", "B/1", "B/2"), np.array([0, 0, 1, 1]))


def images_of(pool, c):
    return pool.images[pool.starts[c] : pool.starts[c] + pool.counts[c]]


def test_classes_are_runs_of_images(pool):
    assert len(pool) == 4
    assert pool.image_shape == (1, 2, 2)
    assert images_of(pool, 1)[0].tolist() == [[[12, 13], [14, 15]]]


def test_a_selection_shares_the_images(pool):
    some = pool.select(np.array([3, 0]))
    assert some.names == ("B/2", "A/1")
    assert some.groups.tolist() == [1, 0]
    assert images_of(some, 0).tolist() == images_of(pool, 3).tolist()
    assert np.shares_memory(some.images, pool.images)


def test_rotations_are_new_classes_of_new_alphabets(pool):
    rotated = pool.select(np.array([2, 1])).with_rotations()
    assert len(rotated) == 8
    assert rotated.names[:3] == ("B/1@0", "A/2@0", "B/1@90")
    for quarter in range(4):
        for place, c in enumerate((2, 1)):
            expected = [np.rot90(image[0], quarter).tolist() for image in images_of(pool, c)]
            assert images_of(rotated, 2 * quarter + place)[:, 0].tolist() == expected
    assert len(np.unique(rotated.groups)) == 8
    assert len(set(rotated.names)) == 8


def test_mirror_images_are_new_classes_of_new_alphabets(pool):
    both = pool.select(np.array([2, 1])).with_mirrors()
    assert both.names == ("B/1", "A/2", "B/1@mirrored", "A/2@mirrored")
    for place, c in enumerate((2, 1)):
        assert images_of(both, place).tolist() == images_of(pool, c).tolist()
        assert images_of(both, 2 + place)[:, 0].tolist() == [
            np.fliplr(image[0]).tolist() for image in images_of(pool, c)
        ]
    assert len(np.unique(both.groups)) == 4


def test_recomposed_characters_are_halves_of_two_of_an_alphabet(pool):
    both = pool.select(np.array([2, 0, 3, 1])).with_recomposed()  # alphabets B and A, mingled
    assert both.names[4:] == ("B/1@recomposed", "A/1@recomposed", "B/2@recomposed", "A/2@recomposed")
    for place, (left, right) in enumerate(((2, 3), (0, 1), (3, 2), (1, 0))):
        assert images_of(both, place).tolist() == images_of(pool, left).tolist()
        for made, a, b in zip(images_of(both, 4 + place), images_of(pool, left), images_of(pool, right), strict=True):
            assert made[0].tolist() == [[a[0, row, 0], b[0, row, 1]] for row in range(2)]
    assert both.groups.tolist() == [1, 0, 1, 0, 3, 2, 3, 2]


def test_halves_of_classes_with_fewer_images_are_taken_again():
    images = np.arange(5 * 2, dtype=np.uint8).reshape(5, 1, 1, 2)
    uneven = ClassPool(images, np.array([0, 3]), np.array([3, 2]), ("A/1", "A/2"), np.array([0, 0]))
    both = uneven.with_recomposed()
    assert images_of(both, 2)[:, 0, 0].tolist() == [[0, 7], [2, 9], [4, 7]]
    assert images_of(both, 3)[:, 0, 0].tolist() == [[6, 1], [8, 3]]
    assert uneven.select(np.array([0])).with_recomposed().names == ("A/1",)  # alone in its alphabet


def test_only_square_images_rotate():
    pool = ClassPool.of_equal_counts(np.zeros((1, 1, 1, 2, 3), np.uint8), ("A/1",), np.array([0]))
    with pytest.raises(ValueError, match="square"):
        pool.with_rotations()


def resident(file: Path) -> int:
    """KiB of a mapped file that are in this process's memory, as the kernel counts them."""
    mappings = re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text())
    return sum(int(re.search(r"Rss: +(\d+)", m)[1]) for m in mappings if str(file) in m.split("\n")[0])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("largest", [0, 2**28])
def test_what_was_read_of_a_large_map_does_not_stay_in_memory(tmp_path, monkeypatch, largest):
    images = np.random.default_rng(0).integers(256, size=(4, 100, 3, 84, 84), dtype=np.uint8)
    built = ClassPool.of_equal_counts(images, tuple("abcd"), np.zeros(4, np.int64))
    pool = load_or_build(tmp_path, "key", lambda: built)
    monkeypatch.setattr(class_pool, "LARGEST_IN_MEMORY", largest)
    rows = np.arange(400).reshape(4, 100)[:, ::-1]
    for _ in range(2):
        np.testing.assert_array_equal(pool.take(rows), images[:, ::-1])
        share = resident(tmp_path / "key" / "images.npy") / (images.nbytes / 1024)
        assert share > 0.9 if largest else share < 0.1
    of_selection = pool.select(np.array([2]))
    assert of_selection.images.base is pool.images.base
