"""How a network of the usual layers is read, so that its derivatives can be had in closed form."""

from collections.abc import Callable
from itertools import takewhile
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from metasgd.meta.closed_form.batch_norm import BatchNorm
from metasgd.meta.closed_form.layers import Conv2d, Fixed, Flatten, Layer, Linear, MaxPool2d, ReLU
from metasgd.meta.closed_form.losses import CrossEntropy, LossForm, MeanSquaredError
from metasgd.meta.closed_form.network import FeedForward
from metasgd.meta.closed_form.rms_norm import RMSNorm
from metasgd.meta.closed_form.standardised import Standardised
from metasgd.meta.closed_form.stem import Stem
from metasgd.nn.heads import ClassAgnosticHead, PrototypeHead
from metasgd.nn.networks import BatchNorm2d

LOSS_FORMS: dict[Callable[..., Tensor], LossForm] = {
    F.cross_entropy: CrossEntropy(),
    F.mse_loss: MeanSquaredError(),
}


def read(network: nn.Module, loss: Callable[..., Tensor]) -> FeedForward | None:
    """``network`` and ``loss`` by their closed forms; None if anything is not known to the letter."""
    modules = _in_sequence(network)
    form = LOSS_FORMS.get(loss)
    learning = [id(m) for _, m in modules if next(m.parameters(), None) is not None]
    if not modules or form is None or len(set(learning)) < len(learning):
        return None
    flatten = type(modules[0][1]) is nn.Flatten and _is_plain(modules[0][1])
    images = type(modules[0][1]) is nn.Conv2d
    layers: list[Layer] = []
    vectors = not images
    for prefix, module in modules[1:] if flatten else modules:
        layer = _layer(prefix, module)
        if layer is None or (vectors and isinstance(layer, Conv2d | BatchNorm | MaxPool2d | Flatten)):
            return None
        if isinstance(layer, Linear | RMSNorm) and not vectors:
            return None
        vectors = vectors or isinstance(layer, Flatten)
        if isinstance(layer, ReLU):
            layer = ReLU(in_place=bool(layers) and isinstance(layers[-1], Linear | Conv2d | BatchNorm))
        layers.append(layer)
    if not layers or not isinstance(layers[-1], Linear):
        return None
    # tied weights go by one of their names alone
    named = {n for n, _ in network.named_parameters() if not n.endswith(("log_scale", "log_temperature"))}
    if frozenset().union(*(layer.names for layer in layers)) != named:
        return None
    first = modules[0][1]
    return FeedForward(
        _with_stem(layers, first) if isinstance(first, nn.Conv2d) else tuple(layers), form, images, flatten
    )


def _with_stem(layers: list[Layer], first: nn.Conv2d) -> tuple[Layer, ...]:
    """The layers, those that can be taken for the stem taken together."""
    convolution, norm = layers[:2]
    between = tuple(cast(list[Fixed], takewhile(lambda layer: isinstance(layer, Fixed), layers[2:])))
    last = layers[2 + len(between)]
    wide = first.out_channels >= first.weight[0].numel()  # else columns would be more than what the layers give
    if not (
        wide and isinstance(convolution, Conv2d) and isinstance(norm, BatchNorm) and isinstance(last, Conv2d | Linear)
    ):
        return tuple(layers)
    shape = first.kernel_size, convolution.stride, convolution.padding, convolution.dilation
    standardised = Standardised(convolution.weight, convolution.bias, norm.weight, norm.bias, *shape, norm.eps)
    stem = Stem(
        last.weight,
        last.bias,
        first=standardised,
        channels=first.out_channels,
        between=between,
        last=last,
    )
    return (stem, *layers[3 + len(between) :])


def _in_sequence(module: nn.Module, prefix: str = "") -> list[tuple[str, nn.Module]]:
    """The modules that are applied one after the other, each with the prefix of its parameters' names."""
    if any((module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)):
        return [(prefix, nn.Module())]  # what hooks do is not known
    if not isinstance(module, nn.Sequential) or type(module).forward is not nn.Sequential.forward:
        return [(prefix, module)]
    # a module may come twice, which named_children would leave out
    return [
        pair
        for name, child in module._modules.items()
        if child is not None
        for pair in _in_sequence(child, f"{prefix}{name}.")
    ]


def _is_plain(flatten: nn.Flatten) -> bool:
    return flatten.start_dim == 1 and flatten.end_dim == -1


def _layer(prefix: str, module: nn.Module) -> Layer | None:
    """The closed form of one module, or None: subclasses may do anything, so types must be exact."""
    weight, bias = f"{prefix}weight", f"{prefix}bias" if getattr(module, "bias", None) is not None else ""
    kind = type(module)
    if kind in (nn.Linear, ClassAgnosticHead, PrototypeHead):
        return Linear(weight, bias)
    if isinstance(module, nn.Conv2d) and kind is nn.Conv2d:
        plain = module.groups == 1 and module.padding_mode == "zeros" and not isinstance(module.padding, str)
        return Conv2d(weight, bias, module.stride, module.padding, module.dilation) if plain else None  # type: ignore[arg-type] # not a str
    if isinstance(module, BatchNorm2d) and kind is BatchNorm2d:
        return BatchNorm(weight, bias, module.eps)
    if isinstance(module, nn.BatchNorm2d) and kind is nn.BatchNorm2d:
        plain = module.affine and not module.track_running_stats
        return BatchNorm(weight, bias, module.eps) if plain else None
    if kind is nn.ReLU:
        return ReLU()
    if isinstance(module, nn.MaxPool2d) and kind is nn.MaxPool2d:
        size, stride = _pair(module.kernel_size), _pair(module.stride)
        plain = size == stride and _pair(module.padding) == (0, 0) and _pair(module.dilation) == (1, 1)
        return MaxPool2d(size=size) if plain and not module.ceil_mode and not module.return_indices else None
    if isinstance(module, nn.RMSNorm) and kind is nn.RMSNorm:
        plain = not module.elementwise_affine and len(module.normalized_shape) == 1
        return RMSNorm(eps=module.eps) if plain else None
    if isinstance(module, nn.Flatten) and kind is nn.Flatten:
        return Flatten() if _is_plain(module) else None
    return None


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])
