from pathlib import Path

import numpy as np
import pytest
from support.strokes import drawing, photograph

from metasgd.data.images.polarity import blank_in_words, ink_of, other_ink


def pixels(image) -> np.ndarray:
    return np.asarray(image.convert("RGB")).transpose(2, 0, 1)


@pytest.mark.parametrize("character", range(10))
def test_drawings_and_photographs_of_both_kinds(character):
    clean = pixels(drawing(character, 0))
    assert ink_of(clean) == "dark"
    assert ink_of(255 - clean) == "light"
    assert ink_of(pixels(photograph(drawing(character, 1), character, inverted=False))) == "dark"
    assert ink_of(pixels(photograph(drawing(character, 1), character, inverted=True))) == "light"


def test_ink_that_meets_the_rim():
    cross = np.zeros((1, 20, 20), dtype=np.uint8)
    cross[0, 8:12] = cross[0, :, 8:12] = 255
    assert ink_of(cross) == "light"
    assert ink_of(255 - cross) == "dark"


def test_the_other_ink():
    assert [other_ink("light"), other_ink("dark")] == ["dark", "light"]


def test_pictures_of_one_shade_are_counted_and_the_first_is_named():
    drawn = np.zeros((3, 8, 8), dtype=np.uint8)
    drawn[1, 4, 4] = 1  # faint, but something
    colour = np.broadcast_to(np.array([9, 200, 30], dtype=np.uint8)[:, None, None], (3, 8, 8))
    paths = [Path(f"{i}.png") for i in range(4)]
    assert blank_in_words(paths[:2], np.stack([drawn, 255 - drawn])) == []
    (one,) = blank_in_words(paths[:2], np.stack([drawn, colour]))
    assert one.startswith("1 of the 2 pictures is blank, of one shade all over, the first 1.png.")
    (three,) = blank_in_words(paths, np.stack([drawn, colour, 255 - 0 * drawn, 0 * drawn]))
    assert three.startswith("3 of the 4 pictures are blank, of one shade all over, the first 1.png.")
    assert "Transparent parts become white" in three
