"""Base networks. They know nothing of inner loops; any ``nn.Module`` with ``forward(batch)`` will do.

Shapes: X examples in a batch, N ways.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metasgd.construction import Configurable
from metasgd.errors import UserError, raise_problems, some_of, too_small
from metasgd.nn.heads import ClassAgnosticHead, HeadName, PrototypeHead, head_of


class BatchNorm2d(nn.Module):
    """Batch normalisation by the statistics of the batch it is given, or of its first examples only.

    There are no running statistics: a task must not depend on the tasks before it. On a query set, the
    batch's own statistics are the transductive protocol of the published numbers; see
    :func:`statistics_from_first` for the other.

    Args:
        channels: of the images.
        eps: what is added to the variance.

    Example:
        >>> images = 3 + 2 * torch.randn(8, 4, 5, 5)
        >>> mean = BatchNorm2d(4)(images).mean(dim=(0, 2, 3))
        >>> bool(mean.abs().max() < 1e-5)
        True
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps
        self.first: int | None = None

    def forward(self, x: Tensor) -> Tensor:
        """``[X, channels, height, width]``, of the same shape."""
        if self.first is None:
            return F.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps)
        # F.batch_norm takes given statistics for constants; here they carry gradients
        var, mean = torch.var_mean(x[: self.first], dim=(0, 2, 3), correction=0, keepdim=True)
        scale = self.weight[:, None, None] * torch.rsqrt(var + self.eps)
        return (x - mean) * scale + self.bias[:, None, None]


@contextmanager
def statistics_from_first(network: nn.Module, n: int) -> Iterator[None]:
    """Let every :class:`BatchNorm2d` normalise whole batches by the statistics of their first n examples.

    Raises:
        UserError: the network has a normalisation over the batch that cannot do this.
    """
    others = [
        f"{name} ({type(module).__name__})"
        for name, module in network.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and (module.training or module.running_mean is None)
    ]
    if others:
        raise UserError(
            f"transductive is false, but {some_of(others, 3)} always normalise by the whole batch. Use"
            " metasgd.nn.BatchNorm2d, or set transductive to true"
        )
    layers = [module for module in network.modules() if isinstance(module, BatchNorm2d)]
    for layer in layers:
        layer.first = n
    try:
        yield
    finally:
        for layer in layers:
            layer.first = None


class Conv4(Configurable, nn.Sequential):
    """Four 3×3 convolutions with BatchNorm and ReLU, then a linear head (Vinyals 2016; Finn 2017).

    Images ``[X, channels, height, width]`` to logits ``[X, N]``. BatchNorm normalises by the batch that it is
    given and keeps no running statistics.

    Args:
        n_way: classes that a linear head tells apart; unused by the other heads.
        head: ``linear``; or, for any number of ways, ``prototype`` (see :class:`PrototypeHead`) or ``class_agnostic``
            (see :class:`ClassAgnosticHead`).
        in_channels: 1 for grey, 3 for colour.
        width: filters of each convolution, 64 as published; or four numbers, one for each. Later convolutions see
            smaller images: ``[32, 64, 128, 256]`` costs about a quarter more than 64, and has four times the features.
        image_size: height and width of the images, in pixels.
        downsample: ``stride`` (2, as in MAML's Omniglot) or ``pool`` (max-pooling 2×2, as in miniImageNet).
        features: what the head reads: ``rectified``, after the last ReLU, as published; or ``normalised``, without
            that ReLU, each example's to a mean square of 1, so that a class-agnostic head tells classes by the
            cosine of the angle between examples (Gidaris and Komodakis, CVPR 2018).
        running_statistics: BatchNorm keeps running statistics and is evaluated by them, as supervised training
            wants it; not for few-shot tasks.
        prototype_bias: whether the rows of a prototype head start with a bias where features are normalised as well, so
            that logits are distances. It helps where there are several shots, and changes nothing where there is one.
            False is what earlier checkpoints were trained by.

    Raises:
        UserError: an argument is out of its range.

    Example:
        >>> Conv4(n_way=5, head="linear", width=8)(torch.rand(3, 1, 28, 28)).shape
        torch.Size([3, 5])

    References:
        Vinyals et al., Matching networks, NeurIPS 2016; Finn, Abbeel and Levine, ICML 2017 (arXiv 1703.03400).
    """

    def __init__(
        self,
        n_way: int = 5,
        head: HeadName = "class_agnostic",
        in_channels: int = 1,
        width: int | Sequence[int] = 64,
        image_size: int = 28,
        downsample: Literal["stride", "pool"] = "stride",
        features: Literal["rectified", "normalised"] = "rectified",
        running_statistics: bool = False,
        prototype_bias: bool = False,
    ) -> None:
        widths = [width] * 4 if isinstance(width, int) else list(width)
        problems = too_small(
            ("n_way", n_way, 2),
            ("in_channels", in_channels, 1),
            ("image_size", image_size, 16 if downsample == "pool" else 1),
        )
        if len(widths) != 4 or min(widths) < 1:
            problems.append(f"width is {width}: use a number, or four, each at least 1")
        if prototype_bias and head != "prototype":
            problems.append(f"prototype_bias is true, but head is {head}: use false, or the head prototype")
        raise_problems(problems)
        channels = [in_channels, *widths]
        rectified = [True] * 3 + [features == "rectified"]
        blocks = (
            _block(c_in, c_out, downsample, running_statistics, relu)
            for (c_in, c_out), relu in zip(pairwise(channels), rectified, strict=True)
        )
        size = image_size
        for _ in range(4):
            size = (size + 1) // 2 if downsample == "stride" else size // 2
        n_features = widths[-1] * size * size
        body = nn.Sequential(*blocks, nn.Flatten())
        if features == "normalised":
            body.append(nn.RMSNorm(n_features, eps=1e-5, elementwise_affine=False))
        top = head_of(head, n_features, n_way, one_length=features == "normalised" and not prototype_bias)
        super().__init__(OrderedDict(body=body, head=top))
        self.image_shape = (in_channels, image_size, image_size)


def _block(
    c_in: int, c_out: int, downsample: Literal["stride", "pool"], running_statistics: bool, rectified: bool
) -> nn.Sequential:
    stride = 2 if downsample == "stride" else 1
    block = nn.Sequential(
        nn.Conv2d(c_in, c_out, kernel_size=3, stride=stride, padding=1),
        nn.BatchNorm2d(c_out) if running_statistics else BatchNorm2d(c_out),
    )
    if rectified:
        block.append(nn.ReLU())
    if downsample == "pool":
        block.append(nn.MaxPool2d(2))
    return block


class MLP(Configurable, nn.Sequential):
    """Fully connected layers with ReLU between them; ``1-40-40-1`` for the sinusoid.

    ``[X, …]`` with ``in_features`` values in each example, to ``[X, out_features]``.

    Args:
        in_features: inputs of each example, after flattening.
        hidden: width of each hidden layer.
        out_features: outputs (N for a classifier).

    Raises:
        UserError: a number is below 1.

    Example:
        >>> MLP(in_features=1, hidden=[40, 40], out_features=1)(torch.rand(10, 1)).shape
        torch.Size([10, 1])

    References:
        Finn, Abbeel and Levine, ICML 2017 (arXiv 1703.03400).
    """

    def __init__(self, in_features: int = 1, hidden: Sequence[int] = (40, 40), out_features: int = 1) -> None:
        sizes = [in_features, *hidden, out_features]
        if min(sizes) < 1:
            raise UserError(
                f"hidden is {list(hidden)}, in_features {in_features} and out_features {out_features}: each must be at"
                " least 1"
            )
        *inner, last = [nn.Linear(a, b) for a, b in pairwise(sizes)]
        body = nn.Sequential(nn.Flatten(), *(layer for linear in inner for layer in (linear, nn.ReLU())))
        super().__init__(OrderedDict(body=body, head=last))


def class_agnostic_names(network: nn.Module) -> frozenset[str]:
    """Names of the parameters whose single row a task expands to its N ways."""
    return frozenset(
        f"{prefix}.{name}" if prefix else name
        for prefix, module in network.named_modules()
        if isinstance(module, ClassAgnosticHead)
        for name in ("weight", "bias")
    )


def prototype_head(network: nn.Module) -> tuple[str, PrototypeHead] | None:
    """The name and the module of the network's prototype head, if it has one."""
    return next(((n, m) for n, m in network.named_modules() if isinstance(m, PrototypeHead)), None)


def uses_batch_statistics(network: nn.Module) -> bool:
    """Whether an example's output depends on the others in its batch through a normalisation."""
    return any(isinstance(m, BatchNorm2d | nn.modules.batchnorm._BatchNorm) for m in network.modules())
