"""Backbone: a network that others designed, and often trained, with one of our heads in place of its classifier."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal
from urllib.error import URLError

import torch
from torch import Tensor, nn

from metasgd.construction import Configurable
from metasgd.errors import UserError, first_line, raise_problems, some_of, too_small
from metasgd.nn.backbones.classifier import cut_classifier, features_of
from metasgd.nn.backbones.named_models import NamedModel, named_model, weight_name
from metasgd.nn.backbones.weight_files import do_weights_follow, put_in, read_weights
from metasgd.nn.heads import HeadName, head_of
from metasgd.nn.networks import BatchNorm2d

log = logging.getLogger("metasgd")


class Backbone(Configurable, nn.Module):
    """``head(features(model((x − mean) / std)))``: any model, pretrained ones too, as a network to be meta-trained.

    Examples ``[X, …]``, pictures from 0 to 1, to logits ``[X, N]``. The model's classifier is cut off; what it then
    puts out is averaged to one vector of features for each example, and read by the head.

    Args:
        model: a name in torchvision, as ``resnet18``, or in timm, as ``vit_small_patch14_dinov2``
            (``timm/resnet18`` where both have it); or a module, in a configuration by its class path.
        weights: pretrained ones: a name of the library's (``DEFAULT``, ``IMAGENET1K_V1``), which it downloads and
            keeps; or a file: a state_dict, a Lightning checkpoint or safetensors. None leaves the model as it is made.
        head: ``prototype`` (see :class:`PrototypeHead`), ``class_agnostic`` (see :class:`ClassAgnosticHead`), or
            ``linear`` for ``n_way`` classes.
        n_way: classes that a linear head tells apart; unused by the other heads.
        image_size: height and width of the pictures in pixels, by default those that the weights were trained for; or
            the whole shape of an example, as ``[1, 84, 84]`` for grey pictures, which become grey colour ones, or
            ``[50, 8]`` for a sequence.
        batch_norm: ``frozen``: every BatchNorm normalises by the statistics it has stored, which nothing changes;
            ``batch``: by those of the batch at hand, as in published few-shot figures. By default frozen if there are
            weights, and otherwise batch.
        features: what the head reads: ``normalised``, each example's to a mean square of 1; or ``plain``.
        mean: of each channel, subtracted from the pictures; by default what the weights were trained with.
        std: by which they are then divided.
        classifier: the name of the module to cut off; empty for none. By default the last linear layer that a pass goes
            through, if no other layer follows it.

    Attributes:
        image_shape: of an example.

    Raises:
        UserError: no such model or weights, weights of another network, or the model does not take such examples.

    Example:
        >>> network = Backbone("mobilenet_v3_small", image_size=32)
        >>> network.image_shape, network.head.weight.shape
        ((3, 32, 32), torch.Size([1, 1024]))

    References:
        Wang, Chao, Weinberger, van der Maaten 2019: SimpleShot, https://arxiv.org/abs/1911.04623 (nearest centroids of
        normalised features); Triantafillou et al., ICLR 2020 (ProtoMAML).
    """

    mean: Tensor | None
    std: Tensor | None

    def __init__(
        self,
        model: nn.Module | str = "resnet18",
        weights: str | None = None,
        head: HeadName = "prototype",
        n_way: int = 5,
        image_size: int | Sequence[int] | None = None,
        batch_norm: Literal["frozen", "batch"] | None = None,
        features: Literal["normalised", "plain"] = "normalised",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        classifier: str | None = None,
    ) -> None:
        super().__init__()
        known = None if isinstance(model, nn.Module) else named_model(model, weights)
        self.image_shape = _shape(model, known, image_size)
        raise_problems(too_small(("n_way", n_way, 2), ("image_size", min(self.image_shape), 1)))
        self.body: nn.Module = _made(model, known, self.image_shape)
        colours = len(known.mean) if known else self.image_shape[0]
        self._normalise_by(mean, std, known, colours)
        cut, width = cut_classifier(self.body, self._normalised(torch.zeros(2, *self.image_shape)), classifier)
        if weights is not None and not do_weights_follow():
            name = model if isinstance(model, str) else type(model).__name__
            log.info(_load(self.body, name, known, weights, [cut] if cut else []))
        self.frozen_statistics = (batch_norm or ("batch" if weights is None else "frozen")) == "frozen"
        if not self.frozen_statistics:
            _by_batch(self.body)
        self.norm = nn.RMSNorm(width, eps=1e-5, elementwise_affine=False) if features == "normalised" else nn.Identity()
        self.head = head_of(head, width, n_way)
        self.train(self.training)

    def forward(self, x: Tensor) -> Tensor:
        """``[X, …]`` to ``[X, N]``."""
        found: Tensor = self.head(self.norm(features_of(self.body(self._normalised(x)))))
        return found

    def train(self, mode: bool = True) -> "Backbone":
        """As of any module; but BatchNorm with frozen statistics stays as in evaluation."""
        super().train(mode)
        if self.frozen_statistics:
            for module in self.body.modules():
                if isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None:
                    module.training = False
        return self

    def _normalised(self, x: Tensor) -> Tensor:
        if self.mean is None or self.std is None:
            return x
        beside = (slice(None), *[None] * (x.ndim - 2))
        return (x - self.mean[beside]) / self.std[beside]

    def _normalise_by(
        self, mean: Sequence[float] | None, std: Sequence[float] | None, known: NamedModel | None, channels: int
    ) -> None:
        mean, std = mean or (known.mean if known else None), std or (known.std if known else None)
        if mean is None and std is None:
            self.register_buffer("mean", None)
            self.register_buffer("std", None)
            return
        mean, std = mean or [0.0] * channels, std or [1.0] * channels
        if not len(mean) == len(std) == channels or min(std) <= 0:
            raise UserError(
                f"mean is {list(mean)} and std {list(std)}: {channels} numbers each are needed, std above 0"
            )
        self.register_buffer("mean", torch.tensor(list(mean)))
        self.register_buffer("std", torch.tensor(list(std)))


def _made(model: str | nn.Module, known: NamedModel | None, shape: tuple[int, ...]) -> nn.Module:
    if isinstance(model, nn.Module):
        return model
    assert known is not None
    return known.make(shape[-1])


def _shape(model: str | nn.Module, known: NamedModel | None, image_size: int | Sequence[int] | None) -> tuple[int, ...]:
    if isinstance(image_size, Sequence):
        shape = tuple(image_size)
        if known is not None and (len(shape) != 3 or shape[0] not in (1, len(known.mean)) or shape[1] != shape[2]):
            raise UserError(
                f"image_size is {list(shape)}: {model} takes square pictures, [{len(known.mean)}, S, S], or grey ones,"
                " [1, S, S]"
            )
        return shape
    if known is not None:
        side = known.image_size if image_size is None else image_size
        return (len(known.mean), side, side)
    size: object = getattr(model, "image_size", None) if image_size is None else image_size
    if not isinstance(size, int):
        raise UserError(
            f"image_size is needed with {type(model).__name__}, of which no size is known: give pixels, or the whole"
            " shape of an example, as [3, 84, 84] or [50, 8]"
        )
    return (3, size, size)


def _load(body: nn.Module, called: str, known: NamedModel | None, weights: str, free: list[str]) -> str:
    name = None if known is None else weight_name(known, weights)
    if known is None or name is None:
        if known is not None and not Path(weights).exists():
            names = f", nor one of {known.library}'s: {', '.join(known.weight_names)}" if known.weight_names else ""
            raise UserError(f"weights is {weights}, which is no file here{names}")
        return put_in(body, called, read_weights(Path(weights)), weights, free)
    try:
        found = known.download(name)
    except (OSError, URLError, RuntimeError, ValueError) as error:
        raise UserError(
            f"weights is {weights}, which {known.library} cannot download here ({first_line(error)})."
            " Download the file elsewhere, and give its path"
        ) from error
    return put_in(body, called, found, f"{known.library}'s {name}", free)


def _by_batch(body: nn.Module) -> None:
    """Let every BatchNorm2d normalise by the batch that it is given, and keep nothing of it."""
    others = []
    for name, module in list(body.named_modules()):
        if type(module) is nn.BatchNorm2d and module.affine:
            new = BatchNorm2d(module.num_features, module.eps)
            new.load_state_dict({n: p for n, p in module.state_dict().items() if n in ("weight", "bias")})
            parent, _, own = name.rpartition(".")
            setattr(body.get_submodule(parent), own, new)
        elif isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None:
            others.append(f"{name} ({type(module).__name__})")
    if others:
        raise UserError(
            f"batch_norm is batch, but {some_of(others, 3)} can be frozen only: give weights, and batch_norm frozen"
        )
