import numpy as np
import pytest

from metasgd.data.glyphs.letters import full_size_mask_of
from metasgd.data.strokes.thinning import middle_lines

BESIDE = ((1, 0), (-1, 0), (0, 1), (0, -1))
AROUND = (*BESIDE, (1, 1), (1, -1), (-1, 1), (-1, -1))


def n_pieces(pixels, neighbours):
    """How many connected pieces there are, counted by flooding."""
    left, pieces = {tuple(p) for p in np.argwhere(pixels)}, 0
    while left:
        pieces += 1
        flood = [left.pop()]
        while flood:
            y, x = flood.pop()
            near = {(y + dy, x + dx) for dy, dx in neighbours} & left
            left -= near
            flood += near
    return pieces


def n_papers(ink):
    """The paper outside, and every hole in the ink."""
    return n_pieces(np.pad(~ink, 1, constant_values=True), BESIDE)


def test_a_bar_becomes_its_middle_line():
    bar = np.zeros((20, 40), dtype=bool)
    bar[7:12, 5:35] = True
    line = middle_lines(bar)
    assert set(np.flatnonzero(line.any(axis=1))) <= {8, 9, 10}
    assert line.sum(axis=0).max() == 1
    assert line.any(axis=0).sum() > 24


@pytest.mark.parametrize("letter", "Aog8ÄЖξ")
def test_lines_are_thin_and_connected_as_the_strokes_were(letter):
    ink = full_size_mask_of(ord(letter), "DejaVuSans.ttf") > 0.5
    line = middle_lines(ink)
    assert n_pieces(line, AROUND) == n_pieces(ink, AROUND)
    assert n_papers(line) == n_papers(ink)
    full = line[:-1, :-1] & line[1:, :-1] & line[:-1, 1:] & line[1:, 1:]
    assert full.sum() <= 2  # hardly a place two pixels wide
    assert not (line & ~ink).any()


def test_blank_paper_stays_blank():
    assert not middle_lines(np.zeros((5, 5), dtype=bool)).any()
