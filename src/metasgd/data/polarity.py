"""Drawings: ink on paper, dark on light or light on dark."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Ink = Literal["light", "dark"]


def ink_of(picture: NDArray[np.uint8]) -> Ink:
    """Whether the ink of a drawing ``[channels, height, width]`` is lighter or darker than its paper.

    The paper is what the rim shows in its median, and there is less ink than paper; so the mean lies off the
    paper's brightness on the side of the ink.
    """
    grey = picture.mean(axis=0)
    rim = np.concatenate([grey[0], grey[-1], grey[1:-1, 0], grey[1:-1, -1]])
    return "light" if grey.mean() > np.median(rim) else "dark"
