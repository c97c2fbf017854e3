"""Pictures seen through affine maps, and drawings by a thicker or thinner pen."""

from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def distorted(pictures: Tensor, maps: Tensor, beyond: Literal["zeros", "reflection"] = "zeros") -> Tensor:
    """Pictures uint8 ``[X, channels, height, width]`` seen through their maps ``[X, 2, 3]``, of the same shape."""
    height, width = pictures.shape[2:]
    # one product for all pictures; F.affine_grid makes one for each and takes as long as the rest together
    exact = torch.float32 if pictures.is_cpu else torch.float64  # of which no device makes products of 10 bits
    places = _middles(height, width, pictures.device, torch.get_default_dtype())
    grid = (maps.to(exact).flatten(0, 1) @ places.to(exact)).float()
    grid = grid.view(-1, 2, height, width).permute(0, 2, 3, 1)
    seen = F.grid_sample(pictures.float(), grid, mode="bicubic", padding_mode=beyond, align_corners=False)
    return seen.round_().clamp_(0, 255).to(torch.uint8)


@lru_cache(maxsize=4)  # a dozen operations, which a host takes long to start
def _middles(height: int, width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The middles of pixels as ``(across, down, 1)``, ``[3, height*width]``, on -1 to 1."""
    with torch.inference_mode(False):  # one that every later caller can use
        across, down = (((2 * torch.arange(n, device=device) + 1) / n - 1).to(dtype) for n in (width, height))
        ones = torch.ones(height, width, device=device, dtype=dtype)
        return torch.stack([across.expand(height, width), down[:, None].expand(height, width), ones]).flatten(1)


def thickened(pictures: Tensor, amounts: Tensor) -> Tensor:
    """Drawings with strokes as of a thicker or thinner pen: ``x + |a| (pooled(x) − x)``, rounded.

    Pooled is the greatest of a pixel and its eight neighbours where ``a > 0``, and the least where ``a < 0``.

    Args:
        pictures: uint8 ``[X, channels, height, width]``, ink on 0.
        amounts: a, ``[X]``, from -1 to 1.

    Example:
        >>> stroke = torch.tensor([[0, 0, 200, 0, 0]], dtype=torch.uint8).expand(1, 1, 3, 5)
        >>> [thickened(stroke, torch.tensor([a]))[0, 0, 1].tolist() for a in (0.5, -0.5)]
        [[0, 100, 200, 100, 0], [0, 0, 100, 0, 0]]
    """
    x = pictures.float()
    a = amounts.float()[:, None, None, None]
    grown, shrunk = F.max_pool2d(x, 3, 1, 1), -F.max_pool2d(-x, 3, 1, 1)
    pooled = torch.where(a > 0, grown, shrunk)
    return (x + a.abs() * (pooled - x)).round_().to(torch.uint8)
