"""Pictures seen through affine maps."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def distorted(pictures: Tensor, maps: Tensor, beyond: Literal["zeros", "reflection"] = "zeros") -> Tensor:
    """Pictures uint8 ``[X, channels, height, width]`` seen through their maps ``[X, 2, 3]``, of the same shape."""
    height, width = pictures.shape[2:]
    device = pictures.device
    # of the middles of pixels
    across, down = ((2 * torch.arange(n, device=device) + 1) / n - 1 for n in (width, height))
    ones = torch.ones(height, width, device=device)
    places = torch.stack([across.expand(height, width), down[:, None].expand(height, width), ones])
    # one product for all pictures; F.affine_grid makes one for each and takes as long as the rest together
    exact = torch.float32 if pictures.is_cpu else torch.float64  # of which no device makes products of 10 bits
    grid = (maps.to(exact).flatten(0, 1) @ places.to(exact).flatten(1)).float()
    grid = grid.view(-1, 2, height, width).permute(0, 2, 3, 1)
    seen = F.grid_sample(pictures.float(), grid, mode="bicubic", padding_mode=beyond, align_corners=False)
    return seen.round_().clamp_(0, 255).to(torch.uint8)
