import math

import numpy as np
import pytest
from PIL import Image, ImageDraw
from support.strokes import drawing

from metasgd.data.strokes.redrawing import FINER, PenDrawing, redrawn


def ink_of(character):
    return np.asarray(drawing(character, 0, side=105)) < 128


def in_size(pen):
    height, width = pen.shape
    return np.asarray(pen.picture().resize((width, height), Image.Resampling.BOX)) > 127


@pytest.mark.parametrize("character", range(4))
def test_the_strokes_that_were_found_draw_the_same_again(character):
    ink = ink_of(character)
    again = in_size(PenDrawing.of(ink))
    assert (ink & again).sum() / (ink | again).sum() > 0.8


@pytest.mark.parametrize("thick", [3, 5])
def test_the_pen_is_as_wide_as_the_lines(thick):
    canvas = Image.new("L", (105, 105))
    pen = ImageDraw.Draw(canvas)
    pen.line([(10, 50), (90, 50)], fill=255, width=thick)
    pen.line([(50, 10), (50, 90)], fill=255, width=thick)
    assert PenDrawing.of(np.asarray(canvas) > 127).width == pytest.approx(thick, rel=0.1)


def test_a_dot_is_as_large_as_it_was():
    ink = np.zeros((20, 20), dtype=bool)
    ink[8:11, 8:11] = True
    pen = PenDrawing.of(ink)
    assert math.pi / 4 * pen.width**2 == pytest.approx(9)
    assert in_size(pen).sum() == pytest.approx(9, abs=4)


def test_points_move_with_their_nodes_and_bend_between_them():
    """The equation of ``again``, point by point, out of the same random numbers."""
    pen = PenDrawing.of(ink_of(0))
    again = pen.again(np.random.default_rng(3))
    stream = np.random.default_rng(3)
    n_nodes = len({n for stroke in pen.strokes for n in stroke.nodes})
    moved = [[0.02 * 105 * z for z in row] for row in stream.normal(size=(n_nodes, 2))]
    for before, after in zip(pen.strokes, again.strokes, strict=True):
        lengths = [math.dist(p, q) for p, q in zip(before.points, before.points[1:], strict=False)]
        bends = stream.normal(size=(3, 2))
        for i, (p, q) in enumerate(zip(before.points, after.points, strict=True)):
            t = sum(lengths[:i]) / sum(lengths)
            for axis in (0, 1):
                expected = (1 - t) * moved[before.nodes[0]][axis] + t * moved[before.nodes[1]][axis]
                for k in (1, 2, 3):
                    expected += math.sin(math.pi * k * t) * bends[k - 1][axis] * 0.05 * sum(lengths) / k
                assert q[axis] - p[axis] == pytest.approx(expected, abs=1e-9)


def test_what_meets_still_does():
    again = PenDrawing.of(ink_of(1)).again(np.random.default_rng(0))
    for node in {n for stroke in again.strokes for n in stroke.nodes}:
        places = [s.points[end] for s in again.strokes for end, n in zip((0, -1), s.nodes, strict=True) if n == node]
        assert np.ptp(places, axis=0).max() < 1e-9


def test_drawings_are_a_function_of_the_stream_and_differ_from_one_another():
    picture = np.where(ink_of(2), 255, 0).astype(np.uint8)
    one, same = (redrawn(picture, 3, np.random.default_rng(7), (28, 28)) for _ in range(2))
    assert one.shape == (3, 28, 28)
    assert np.array_equal(one, same)
    assert len({drawing.tobytes() for drawing in one}) == 3
    share = one.astype(float).mean() / picture.astype(float).mean()
    assert share == pytest.approx(1, abs=0.15)  # as much ink


def test_blank_paper_is_drawn_as_blank_paper():
    assert not redrawn(np.zeros((30, 20), dtype=np.uint8), 2, np.random.default_rng(0), (12, 8)).any()
    assert PenDrawing.of(np.zeros((30, 20), dtype=bool)).picture().size == (FINER * 20, FINER * 30)
