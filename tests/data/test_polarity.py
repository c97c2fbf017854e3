import numpy as np
import pytest
from strokes import drawing, photograph

from metasgd.data.polarity import ink_of


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
