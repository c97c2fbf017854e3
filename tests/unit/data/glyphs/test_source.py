from pathlib import Path

import numpy as np
import pytest

from metasgd.data.glyphs import source as glyphs
from metasgd.data.glyphs.letters import SCRIPTS
from metasgd.data.glyphs.source import Glyphs, draw
from metasgd.errors import UserError

NOWHERE = Path("nowhere")


EACH = 8
"""Of so many letters one is drawn: enough of every split."""


@pytest.fixture(scope="module")
def small(tmp_path_factory, found):
    """Letters of every split, twice each, and the cache that they are in."""
    source, cache = Glyphs(drawings_per_class=2), tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(glyphs, "letters", lambda: found[::EACH])
        source.prepare(NOWHERE, cache)
    return source, cache


def images_of(pool, c):
    return pool.images[pool.starts[c] : pool.starts[c] + pool.counts[c], 0]


def test_a_drawing_is_a_function_of_seed_letter_and_number(found):
    for letter in found[::400]:
        drawings = draw(letter, 5, seed=3, image_size=28)
        assert np.array_equal(drawings[:2], draw(letter, 2, seed=3, image_size=28))
        assert not np.array_equal(drawings, draw(letter, 5, seed=4, image_size=28))
        assert len(np.unique(drawings, axis=0)) == 5


@pytest.mark.parametrize(("image_size", "handwriting"), [(12, 0), (28, 0), (84, 0), (28, 1)])
def test_no_drawing_is_blank_or_clipped(found, image_size, handwriting):
    for letter in found[:: 40 if image_size == 28 else 200]:
        drawings = draw(letter, 20, seed=0, image_size=image_size, handwriting=handwriting).astype(int)
        assert drawings.max(axis=(1, 2)).min() > 120, letter.name
        rim = (drawings[:, 0], drawings[:, -1], drawings[:, :, 0], drawings[:, :, -1])
        assert max(edge.max() for edge in rim) == 0, letter.name
        if image_size == 28:
            assert drawings.sum(axis=(1, 2)).min() > 255 * 6, letter.name


def test_a_pen_writes_with_less_ink_a_share_of_the_drawings(found):
    letter = next(letter for letter in found if letter.code == ord("B"))
    printed, mixed, written = (draw(letter, 100, 0, 28, share).astype(float) for share in (0, 0.3, 1))
    ink = [drawings.mean() for drawings in (printed, mixed, written)]
    assert ink[0] > ink[1] > ink[2]
    as_written = [any(np.array_equal(a, b) for b in written) for a in mixed]
    assert 15 < sum(as_written) < 45


def test_splits_share_no_script_and_no_class(small, found):
    source, cache = small
    pools = {split: source.pool(split, NOWHERE, cache) for split in ("train", "val", "test")}
    for split, pool in pools.items():
        assert {SCRIPTS[name.split("/")[0]] for name in pool.names} == {split}
        assert (pool.counts == 2).all()
    names = [name for pool in pools.values() for name in pool.names]
    assert sorted(names) == sorted(letter.name for letter in found[::EACH])
    assert len(set(names)) == len(names)
    assert not set(pools["train"].groups) & set(pools["test"].groups)


def test_a_pool_holds_the_drawings_of_its_letters(small, found):
    source, cache = small
    pool = source.pool("test", NOWHERE, cache)
    letter = next(x for x in found if x.name == pool.names[50])
    assert np.array_equal(images_of(pool, 50), draw(letter, 2, seed=0, image_size=28))


def test_the_second_time_nothing_is_drawn(small, found, monkeypatch):
    source, cache = small
    source.prepare(NOWHERE, cache)

    def draw_again(*args):
        raise AssertionError("drawn again")

    monkeypatch.setattr(glyphs, "letters", lambda: found[:5])
    monkeypatch.setattr(glyphs, "draw", draw_again)
    assert len(Glyphs(drawings_per_class=2).pool("val", NOWHERE, cache)) > 5
    with pytest.raises(AssertionError, match="drawn again"):
        Glyphs(drawings_per_class=2, seed=1).pool("val", NOWHERE, cache)


def test_an_interrupted_drawing_leaves_nothing_to_be_taken_for_complete(tmp_path, found, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(glyphs, "letters", lambda: found[:5])
    monkeypatch.setattr(glyphs, "draw", interrupt)
    with pytest.raises(KeyboardInterrupt):
        Glyphs(drawings_per_class=2).prepare(NOWHERE, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_rotations_are_for_training_alone(small):
    source, cache = small
    rotating = Glyphs(drawings_per_class=2, rotations=True)
    upright, rotated = (s.pool("train", NOWHERE, cache) for s in (source, rotating))
    assert len(rotated) == 4 * len(upright)
    assert rotating.pool("test", NOWHERE, cache).names == source.pool("test", NOWHERE, cache).names


def test_all_unusable_options_are_named_together():
    with pytest.raises(UserError) as raised:
        Glyphs(image_size=4, drawings_per_class=1, seed=-1, handwriting=1.5)
    assert len(raised.value.problems) == 4
