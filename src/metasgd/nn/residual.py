"""The residual networks of few-shot figures: ResNet-12 and the wide ones. Shape letters: X examples, N ways."""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from metasgd.construction import Configurable
from metasgd.errors import raise_problems, too_small
from metasgd.nn.backbones.drop_block import drop_block_of
from metasgd.nn.heads import HeadName, head_of
from metasgd.nn.networks import BatchNorm2d

Features = Literal["rectified", "normalised"]


class ResNet12(Configurable, nn.Sequential):
    """Four residual blocks of three 3×3 convolutions each, a mean over places, and a head (Oreshkin 2018; Lee 2019).

    Images ``[X, channels, height, width]`` to logits ``[X, N]``. Each block is three times convolution and BatchNorm,
    with a leaky ReLU of slope 0.1 between them; a 1×1 convolution and BatchNorm of its input are added, and a leaky
    ReLU and max-pooling 2×2 follow.

    Args:
        n_way: classes that a linear head tells apart; unused by the other heads.
        head: ``prototype`` (see :class:`PrototypeHead`), ``class_agnostic`` (see :class:`ClassAgnosticHead`) or
            ``linear``.
        in_channels: 1 for grey, 3 for colour.
        widths: filters of each block: ``[64, 160, 320, 640]`` as in MetaOptNet, or ``[64, 128, 256, 512]``.
        image_size: height and width of the images, in pixels; at least 16.
        drop_block: the share of places that DropBlock leaves out behind each block in supervised training; off by
            default, and while a network adapts.
        features: what the head reads: ``rectified``, or ``normalised``, each example's to a mean square of 1.
        running_statistics: BatchNorm keeps running statistics and is evaluated by them, as supervised training wants
            it; by default it normalises by the batch that it is given.

    Example:
        >>> sum(p.numel() for p in ResNet12().body.parameters())
        12424320

    References:
        Oreshkin, Rodriguez, Lacoste 2018: TADAM, https://arxiv.org/abs/1805.10123; Lee, Maji, Ravichandran, Soatto
        2019: MetaOptNet, https://arxiv.org/abs/1904.03758; Ghiasi, Lin, Le 2018: DropBlock.
    """

    def __init__(
        self,
        n_way: int = 5,
        head: HeadName = "prototype",
        in_channels: int = 3,
        widths: Sequence[int] = (64, 160, 320, 640),
        image_size: int = 84,
        drop_block: float = 0.0,
        features: Features = "normalised",
        running_statistics: bool = False,
    ) -> None:
        problems = too_small(("n_way", n_way, 2), ("in_channels", in_channels, 1), ("image_size", image_size, 16))
        if len(widths) != 4 or min(widths) < 1:
            problems.append(f"widths is {list(widths)}: four numbers of at least 1 are needed, one for each block")
        if not 0 <= drop_block < 1:
            problems.append(f"drop_block is {drop_block}: a share from 0 to below 1 is needed")
        raise_problems(problems)
        blocks = (
            nn.Sequential(
                _Block(c_in, c_out, running_statistics),
                nn.MaxPool2d(2),
                *drop_block_of(drop_block, image_size >> i + 1),
            )
            for i, (c_in, c_out) in enumerate(pairwise((in_channels, *widths)))
        )
        body = nn.Sequential(*blocks, *_read(widths[-1], features))
        super().__init__(OrderedDict(body=body, head=head_of(head, widths[-1], n_way)))
        self.image_shape = (in_channels, image_size, image_size)


class WideResNet(Configurable, nn.Sequential):
    """A wide residual network, WRN-28-10 by default, with a head (Zagoruyko and Komodakis 2016).

    Images ``[X, channels, height, width]`` to logits ``[X, N]``: a 3×3 convolution to 16 channels; three groups of
    ``(depth − 4) / 6`` blocks with 16, 32 and 64 times ``width`` filters, each of them
    ``x + conv(relu(norm(conv(relu(norm(x))))))``, each later group at half the size; BatchNorm, ReLU, and a mean over
    places.

    Args:
        n_way: classes that a linear head tells apart; unused by the other heads.
        head: ``prototype``, ``class_agnostic`` or ``linear``, as of :class:`ResNet12`.
        in_channels: 1 for grey, 3 for colour.
        depth: 4 more than a multiple of 6.
        width: by which the filters are multiplied.
        image_size: height and width of the images, in pixels.
        features: ``rectified`` or ``normalised``, as of :class:`ResNet12`.
        running_statistics: as of :class:`ResNet12`.

    Example:
        >>> sum(p.numel() for p in WideResNet(depth=10, width=1).body.parameters())
        77200

    References:
        Zagoruyko and Komodakis 2016: Wide Residual Networks, https://arxiv.org/abs/1605.07146; Rusu et al., ICLR 2019
        (LEO, where few-shot figures by WRN-28-10 began).
    """

    def __init__(
        self,
        n_way: int = 5,
        head: HeadName = "prototype",
        in_channels: int = 3,
        depth: int = 28,
        width: int = 10,
        image_size: int = 84,
        features: Features = "normalised",
        running_statistics: bool = False,
    ) -> None:
        problems = too_small(
            ("n_way", n_way, 2), ("in_channels", in_channels, 1), ("width", width, 1), ("image_size", image_size, 8)
        )
        if depth < 10 or (depth - 4) % 6:
            problems.append(f"depth is {depth}: 4 more than a multiple of 6 is needed, as 10, 16 or 28")
        raise_problems(problems)
        groups = []
        channels = 16
        for i in range(3):
            wide = 16 * width * 2**i
            firsts = [(channels, 1 + (i > 0)), *[(wide, 1)] * ((depth - 4) // 6 - 1)]
            groups.append(nn.Sequential(*(_WideBlock(c, wide, s, running_statistics) for c, s in firsts)))
            channels = wide
        stem = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        last = [_norm(channels, running_statistics), nn.ReLU()]
        body = nn.Sequential(stem, *groups, *last, *_read(channels, features))
        super().__init__(OrderedDict(body=body, head=head_of(head, channels, n_way)))
        self.image_shape = (in_channels, image_size, image_size)


class _Block(nn.Module):
    def __init__(self, c_in: int, c_out: int, running: bool) -> None:
        super().__init__()
        sizes = [c_in, c_out, c_out, c_out]
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1, bias=False) for a, b in pairwise(sizes))
        self.norms = nn.ModuleList(_norm(c_out, running) for _ in range(3))
        self.shortcut = nn.Sequential(nn.Conv2d(c_in, c_out, 1, bias=False), _norm(c_out, running))

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            y = norm(conv(y))
            if i < 2:
                y = F.leaky_relu(y, 0.1)
        return F.leaky_relu(y + self.shortcut(x), 0.1)


class _WideBlock(nn.Module):
    def __init__(self, c_in: int, c_out: int, stride: int, running: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = _norm(c_in, running), _norm(c_out, running)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1, bias=False)
        self.shortcut = None if c_in == c_out else nn.Conv2d(c_in, c_out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm1(x).relu()
        y: Tensor = self.conv2(self.norm2(self.conv1(h)).relu())
        return y + (x if self.shortcut is None else self.shortcut(h))


def _norm(channels: int, running: bool) -> nn.Module:
    return nn.BatchNorm2d(channels) if running else BatchNorm2d(channels)


def _read(width: int, features: Features) -> list[nn.Module]:
    """From the last map to the features that a head reads."""
    mean: list[nn.Module] = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return mean if features == "rectified" else [*mean, nn.RMSNorm(width, eps=1e-5, elementwise_affine=False)]
