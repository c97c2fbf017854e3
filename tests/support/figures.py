"""Figures that runs show: made, and rendered only for tests that look at them.

To render those of a small run takes longer than all else in it.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

import numpy as np
from torch.utils.tensorboard import _utils, writer


def render_nothing() -> None:
    """From now on, TensorBoard shows a blank picture for each figure."""
    mock.patch.object(writer, "figure_to_image", _blank).start()


def rendered() -> AbstractContextManager[Callable[..., Any]]:
    """Within, figures are rendered."""
    return mock.patch.object(writer, "figure_to_image", _utils.figure_to_image)


def _blank(figures: object, close: bool = True) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.zeros((3, 1, 1), dtype=np.uint8)
