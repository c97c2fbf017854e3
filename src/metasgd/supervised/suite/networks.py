"""The networks of the workloads, small and plain. Shape letters: X examples, T places, V symbols, C features."""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def plain_cnn(widths: Sequence[int], image_size: int, n_classes: int) -> nn.Module:
    """3×3 convolutions of stride 2 with ReLU and no normalisation, on grey images."""
    layers: list[nn.Module] = []
    for a, b in pairwise((1, *widths)):
        layers += [nn.Conv2d(a, b, 3, stride=2, padding=1), nn.ReLU()]
        image_size = -(-image_size // 2)
    body = nn.Sequential(*layers, nn.Flatten())
    return nn.Sequential(OrderedDict(body=body, head=nn.Linear(widths[-1] * image_size**2, n_classes)))


class AttentionBlock(nn.Module):
    """``x + attention(norm(x))``, then ``x + mlp(norm(x))``.

    Args:
        width: C.
        heads: of the attention.
        causal: a place attends to those up to itself.
    """

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value, self.mix = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """``[X, T, C]``, of the same shape."""
        each = self.query_key_value(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = each
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        x = x + self.mix(attended.transpose(1, 2).flatten(2))
        after: Tensor = x + self.mlp(self.norm2(x))
        return after


class CharacterTransformer(nn.Module):
    """Symbols ``[X, T]`` to logits of the next ones ``[X, T, V]``.

    Args:
        symbols: V.
        length: T at most.
        width: C.
        depth: blocks.
        heads: of each attention.
    """

    def __init__(self, symbols: int, length: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(symbols, width)
        self.embedding_of_place = nn.Parameter(0.02 * torch.randn(length, width))
        self.blocks = nn.Sequential(*(AttentionBlock(width, heads, causal=True) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, symbols)

    def forward(self, x: Tensor) -> Tensor:
        """The logits at every place."""
        found: Tensor = self.head(self.norm(self.blocks(self.embedding(x) + self.embedding_of_place[: x.shape[1]])))
        return found


class VisionTransformer(nn.Module):
    """Grey images ``[X, 1, size, size]`` in patches to logits, by the mean over the patches.

    Args:
        image_size: in pixels.
        patch: side of a patch.
        width: C.
        depth: blocks.
        heads: of each attention.
        n_classes: as many logits.
    """

    def __init__(self, image_size: int, patch: int, width: int, depth: int, heads: int, n_classes: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, patch, stride=patch)
        self.embedding_of_place = nn.Parameter(0.02 * torch.randn((image_size // patch) ** 2, width))
        self.blocks = nn.Sequential(*(AttentionBlock(width, heads, causal=False) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """The logits."""
        places = self.patches(x).flatten(2).transpose(1, 2) + self.embedding_of_place
        found: Tensor = self.head(self.norm(self.blocks(places)).mean(dim=1))
        return found


class CharacterGRU(nn.Module):
    """Symbols ``[X, T]`` to logits of the next ones ``[X, T, V]``.

    Args:
        symbols: V.
        width: of embedding and state.
    """

    def __init__(self, symbols: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(symbols, width)
        self.gru = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, symbols)

    def forward(self, x: Tensor) -> Tensor:
        """The logits at every place."""
        found: Tensor = self.head(self.gru(self.embedding(x))[0])
        return found
