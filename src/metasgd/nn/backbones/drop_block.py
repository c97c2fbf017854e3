"""DropBlock, which torchvision has."""

from torch import nn

BLOCK = 5
"""Height and width of what is left out, at most."""


def drop_block_of(share: float, size: int) -> list[nn.Module]:
    """The module that leaves out this share of a map of ``size``² places, in blocks; none for a share of 0."""
    if not share:
        return []
    from torchvision.ops import DropBlock2d

    return [DropBlock2d(share, max(1, min(BLOCK, size)))]
