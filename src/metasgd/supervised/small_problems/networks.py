"""Small networks of different architectures, of 64 inputs and 17 outputs, of which the first counts for nothing.

Shape letters: X examples, T places.
"""

from collections import OrderedDict
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from metasgd.construction import Configurable
from metasgd.nn.by_definition import attention
from metasgd.nn.several import OneOfSeveral
from metasgd.supervised.small_problems.objective import ANSWERS
from metasgd.supervised.small_problems.source import SIDE

INPUTS = SIDE * SIDE
SYMBOLS = 32


def mlp(*widths: int, norm: bool = False) -> nn.Module:
    """Layers with ReLU, and a layer normalisation before each ReLU if ``norm``."""
    layers: list[nn.Module] = []
    for a, b in pairwise((INPUTS, *widths)):
        layers += [nn.Linear(a, b), *([nn.LayerNorm(b)] if norm else []), nn.ReLU()]
    return nn.Sequential(OrderedDict(body=nn.Sequential(*layers), head=nn.Linear(widths[-1], ANSWERS)))


def cnn(*widths: int) -> nn.Module:
    """3×3 convolutions of stride 2 with ReLU on the inputs as a picture."""
    layers: list[nn.Module] = [nn.Unflatten(1, (1, SIDE, SIDE))]
    for a, b in pairwise((1, *widths)):
        layers += [nn.Conv2d(a, b, 3, stride=2, padding=1), nn.ReLU()]
    side = SIDE // 2 ** len(widths)
    body = nn.Sequential(*layers, nn.Flatten())
    return nn.Sequential(OrderedDict(body=body, head=nn.Linear(widths[-1] * side * side, ANSWERS)))


class Attention(nn.Module):
    """One block of attention and MLP over the picture's rows.

    Args:
        width: of a place.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(SIDE, width)
        self.embedding = nn.Embedding(SIDE, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value, self.mix = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.head = nn.Linear(width, ANSWERS)

    def forward(self, x: Tensor) -> Tensor:
        """The outputs of ``[X, 64]``."""
        t = self.first(x.reshape(-1, SIDE, SIDE)) + self.embedding(torch.arange(SIDE, device=x.device))
        query, key, value = self.query_key_value(self.norm1(t)).chunk(3, dim=-1)
        t = t + self.mix(attention(query, key, value))
        t = t + self.down(self.up(self.norm2(t)).relu())
        found: Tensor = self.head(t.mean(dim=1))
        return found


class Recurrence(nn.Module):
    """A gated recurrent unit over the picture's rows, each read as one of 32 symbols and its numbers.

    Args:
        width: of the state.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(SYMBOLS, width)
        self.first = nn.Linear(SIDE, width)
        self.gates = nn.Linear(2 * width, 2 * width)
        self.new = nn.Linear(2 * width, width)
        self.head = nn.Linear(width, ANSWERS)

    def forward(self, x: Tensor) -> Tensor:
        """The outputs of ``[X, 64]``."""
        rows = x.reshape(-1, SIDE, SIDE)
        symbols = (16 + 8 * rows.mean(dim=-1)).clamp(0, SYMBOLS - 1).long()
        read = self.embedding(symbols) + self.first(rows)
        h = torch.zeros_like(read[:, 0])
        for t in range(SIDE):
            reset, update = self.gates(torch.cat([read[:, t], h], dim=-1)).sigmoid().chunk(2, dim=-1)
            h = update * h + (1 - update) * self.new(torch.cat([read[:, t], reset * h], dim=-1)).tanh()
        found: Tensor = self.head(h)
        return found


class SmallNetworks(OneOfSeveral, Configurable):
    """MLPs, CNNs, attention, recurrence and a bottleneck, one of them for each task.

    Args:
        sizes: ``small``: widths of 8 to 64; ``all``: up to 512, at five times the time.

    Example:
        >>> networks = SmallNetworks()
        >>> len(networks.members), networks(torch.zeros(3, 64)).shape
        (8, torch.Size([3, 17]))
    """

    def __init__(self, sizes: Literal["small", "all"] = "small") -> None:
        small = [mlp(8), cnn(8, 16), mlp(32, 32, norm=True), Attention(16)]
        small += [mlp(64), Recurrence(16), mlp(32, 6, 32), cnn(16, 32, 32)]
        large = [mlp(512), cnn(32, 64), Attention(64), Recurrence(64), mlp(128, 128, 128), mlp(256, 256, norm=True)]
        super().__init__(small if sizes == "small" else small + large)
