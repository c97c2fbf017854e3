import numpy as np
import pytest
from support.strokes import drawing

from metasgd.data.strokes.thinning import middle_lines
from metasgd.data.strokes.tracing import strokes_of


def lines(*rows):
    return np.array([[c == "#" for c in row] for row in rows])


def ends(stroke):
    return {tuple(stroke.points[0]), tuple(stroke.points[-1])}


def test_a_line_is_one_stroke_from_end_to_end():
    (stroke,) = strokes_of(lines("......", ".####.", "......"))
    assert ends(stroke) == {(1, 1), (1, 4)}
    assert [tuple(p) for p in sorted(stroke.points.tolist())] == [(1, 1), (1, 2), (1, 3), (1, 4)]
    assert stroke.nodes[0] != stroke.nodes[1]


def test_lines_that_meet_share_a_node_and_it_lies_where_they_meet():
    strokes = strokes_of(lines("#######", "...#...", "...#...", "...#..."))
    assert len(strokes) == 3
    (crossing,) = set.intersection(*(set(stroke.nodes) for stroke in strokes))
    for stroke in strokes:
        at = stroke.points[0] if stroke.nodes[0] == crossing else stroke.points[-1]
        assert np.linalg.norm(at - (0, 3)) <= 1
    assert set.union(*map(ends, strokes)) >= {(0, 0), (0, 6), (3, 3)}


def test_a_crossing_is_one_node_with_four_strokes():
    strokes = strokes_of(lines("...#...", "...#...", "...#...", "#######", "...#...", "...#...", "...#..."))
    assert len(strokes) == 4
    assert len(set.intersection(*(set(stroke.nodes) for stroke in strokes))) == 1


def test_a_closed_line_begins_and_ends_at_one_node():
    (stroke,) = strokes_of(lines(".###.", "#...#", "#...#", ".###."))
    assert stroke.nodes[0] == stroke.nodes[1]
    assert len({tuple(p) for p in stroke.points.tolist()}) == 10
    steps = np.abs(np.diff(np.concatenate([stroke.points, stroke.points[:1]]), axis=0)).max(axis=1)
    assert steps.max() <= 1


def test_a_line_that_returns_to_its_crossing_begins_and_ends_there():
    strokes = strokes_of(lines("..###..", ".#...#.", ".#...#.", "..###..", "...#...", "...#...", "...#..."))
    assert sorted(len({*stroke.nodes}) for stroke in strokes) == [1, 2]
    assert len(set.intersection(*(set(stroke.nodes) for stroke in strokes))) == 1


@pytest.mark.parametrize("dot", [lines("...", ".#.", "..."), lines("....", ".##.", "....")])
def test_a_dot_is_a_stroke_of_one_point(dot):
    (stroke,) = strokes_of(dot)
    assert stroke.points.tolist() == [np.argwhere(dot).mean(axis=0).tolist()]


def test_the_inside_of_a_step_is_no_crossing():
    assert len(strokes_of(lines("##...", ".##..", "..##.", "...##"))) == 1


def test_blank_paper_has_no_strokes():
    assert strokes_of(np.zeros((5, 5), dtype=bool)) == []


@pytest.mark.parametrize("character", range(6))
def test_strokes_run_along_all_of_the_lines_and_nowhere_else(character):
    line = middle_lines(np.asarray(drawing(character, 0)) < 128)
    strokes = strokes_of(line)
    points = np.concatenate([stroke.points for stroke in strokes])
    apart = np.linalg.norm(np.argwhere(line)[:, None] - points, axis=-1)
    assert apart.min(axis=1).max() <= 2  # the pixels of a crossing are one node
    assert apart.min(axis=0).max() <= 2
    for stroke in strokes:
        assert np.abs(np.diff(stroke.points, axis=0)).max(initial=0) <= 2
    for node in {n for stroke in strokes for n in stroke.nodes}:
        places = [s.points[end] for s in strokes for end, n in zip((0, -1), s.nodes, strict=True) if n == node]
        assert np.ptp(places, axis=0).max() == 0
