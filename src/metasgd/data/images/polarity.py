"""Drawings: ink on paper, dark on light or light on dark."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Ink = Literal["light", "dark"]
Polarity = Literal["detect", "same", "opposite"]


def other_ink(ink: Ink) -> Ink:
    """Dark for light, and light for dark."""
    return "dark" if ink == "light" else "light"


def ink_of(picture: NDArray[np.uint8]) -> Ink:
    """Whether the ink of a drawing ``[channels, height, width]`` is lighter or darker than its paper.

    The paper is what the rim shows in its median, and there is less ink than paper; so the mean lies off the
    paper's brightness on the side of the ink.
    """
    grey = picture.mean(axis=0)
    rim = np.concatenate([grey[0], grey[-1], grey[1:-1, 0], grey[1:-1, -1]])
    return "light" if grey.mean() > np.median(rim) else "dark"


def blank_in_words(paths: Sequence[Path], pictures: NDArray[np.uint8]) -> list[str]:
    """A problem if some support pictures show nothing: nothing is learned from them, and they have no ink to tell.

    Args:
        paths: of the pictures.
        pictures: ``[X, channels, height, width]``; one in which each pixel is like the first is blank.
    """
    is_blank = (pictures == pictures[..., :1, :1]).all(axis=(1, 2, 3))
    if not is_blank.any():
        return []
    n = int(is_blank.sum())
    return [
        f"{n} of the {len(paths)} pictures {'is' if n == 1 else 'are'} blank, of one shade all"
        f" over, the first {paths[int(is_blank.argmax())]}. Transparent parts become white, so white ink on them is"
        " lost: save such drawings on a dark ground, and remove what shows nothing"
    ]


def polarity_in_words(trained: Ink, same: int, n: int, inverted: bool, polarity: Polarity) -> str:
    """What was seen of the ink of n support pictures, of which ``same`` have the checkpoint's, and what was done."""
    seen, votes = (trained, same) if 2 * same >= n else (other_ink(trained), n - same)
    done = "light and dark exchanged" if inverted else "taken as they are"
    how = "" if polarity == "detect" else f", as polarity {polarity} says"
    doubt = "" if votes >= 0.8 * n else "; they disagree: look at them, and set polarity to same or opposite"
    return f"polarity: {seen} ink in {votes} of {n}, the checkpoint was trained on {trained} ink: {done}{how}{doubt}"
