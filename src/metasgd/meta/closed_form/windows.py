"""What each place of a convolution's output reads of its input, and the way back."""

from collections.abc import Iterator
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


class Axis(NamedTuple):
    """One of the two axes of images under a kernel.

    Attributes:
        size: of the images.
        kernel: how many rows, or columns, a window reads.
        stride: from one window to the next.
        padding: zeros at either end.
        dilation: between those that a window reads.
    """

    size: int
    kernel: int
    stride: int
    padding: int
    dilation: int

    @property
    def reach(self) -> int:
        """How many rows, or columns, a window spans."""
        return self.dilation * (self.kernel - 1) + 1

    @property
    def places(self) -> int:
        """How many windows there are."""
        return (self.size + 2 * self.padding - self.reach) // self.stride + 1

    @property
    def strides(self) -> int:
        """How many strides hold all the windows and all the images."""
        return -(-max(self.padding + self.size, self.stride * (self.places - 1) + self.reach) // self.stride)

    def parts(self) -> Iterator[tuple[slice, int, slice]]:
        """Of a window, what falls into one stride: which, in which stride from its first, and where in that."""
        at_once = self.stride if self.dilation == 1 else 1
        for first in range(0, self.kernel, at_once):
            number = min(at_once, self.kernel - first)
            stride, offset = divmod(self.dilation * first, self.stride)
            yield slice(first, first + number), stride, slice(offset, offset + number)


def windows(images: Tensor, down: Axis, across: Axis) -> Tensor:
    """Images ``[b, X, height, width, channels]`` to ``[b, X * places, kernel height * kernel width * channels]``.

    Raises:
        RuntimeError: the kernel is larger than the images.
    """
    if down.places < 1 or across.places < 1:
        raise RuntimeError(
            f"a convolution's kernel spans {down.reach}×{across.reach}, more than its input of"
            f" {down.size}×{across.size} with padding"
        )
    if down.padding or across.padding:
        images = F.pad(images, (0, 0, across.padding, across.padding, down.padding, down.padding))
    images = images.contiguous()
    of_task, of_example, of_row, of_column, _ = images.stride()
    b, n, _, _, channels = images.shape
    seen = images.as_strided(
        (b, n, down.places, across.places, down.kernel, across.kernel, channels),
        (
            *(of_task, of_example, of_row * down.stride, of_column * across.stride),
            *(of_row * down.dilation, of_column * across.dilation, 1),
        ),
    )
    return seen.reshape(b, n * down.places * across.places, down.kernel * across.kernel * channels)


def overlaid(dwindows: Tensor, n: int, down: Axis, across: Axis) -> Tensor:
    """The transpose of ``windows``: the sum of them all, each in its place, ``[b, n, height, width, channels]``."""
    b, channels = len(dwindows), dwindows.shape[-1] // (down.kernel * across.kernel)
    seen = dwindows.view(b, n, down.places, across.places, down.kernel, across.kernel, channels).movedim(4, 3)
    total = dwindows.new_zeros(b, n, down.strides, down.stride, across.strides, across.stride, channels)
    for rows, i, within_row in down.parts():
        for columns, j, within_column in across.parts():
            region = total[:, :, i : i + down.places, within_row, j : j + across.places, within_column]
            region += seen[:, :, :, rows, :, columns]
    whole = total.view(b, n, down.strides * down.stride, across.strides * across.stride, channels)
    return whole[:, :, down.padding :, across.padding :][:, :, : down.size, : across.size]
