"""How a network of the usual layers is read, so that its derivatives can be had in closed form.

What a module does is known only if it is a module of a known class as torch, or this package, made it: any other class,
a ``forward`` of the instance's own, a hook, a parametrization or a parameter more or less leaves the whole network to
autograd. Since all that may change at any time, a network is read again for every use.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from metasgd.meta.closed_form.batch_norm import BatchNorm
from metasgd.meta.closed_form.convolution import Conv2d
from metasgd.meta.closed_form.layers import Flatten, Layer, Linear, MaxPool2d, ReLU
from metasgd.meta.closed_form.losses import CrossEntropy, LossForm, MeanSquaredError
from metasgd.meta.closed_form.network import FeedForward
from metasgd.meta.closed_form.rms_norm import RMSNorm
from metasgd.nn.heads import ClassAgnosticHead, PrototypeHead
from metasgd.nn.networks import BatchNorm2d

GLOBAL_HOOKS = tuple(f"_global_{when}_hooks" for when in ("forward_pre", "forward", "backward_pre", "backward"))
"""Where torch holds the hooks of all modules; each version has these."""
LOSS_FORMS: dict[Callable[..., Tensor], LossForm] = {
    F.cross_entropy: CrossEntropy(),
    F.mse_loss: MeanSquaredError(),
}
FORWARD: dict[type[nn.Module], Callable[..., Tensor]] = {
    kind: kind.forward
    for kind in (
        *(nn.Linear, nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d, nn.RMSNorm, nn.Flatten),
        *(ClassAgnosticHead, PrototypeHead, BatchNorm2d),
    )
}
"""What the known classes do, as it was when this file was imported."""
CALLS = ("forward", "__call__", "_call_impl", "__iter__", "__getattr__", "__getattribute__")
"""By which methods ``nn.Sequential`` applies its modules."""
SEQUENTIAL = tuple(getattr(nn.Sequential, name) for name in CALLS)


def from_module(network: nn.Module, loss: Callable[..., Tensor]) -> FeedForward | None:
    """``network`` and ``loss`` by their closed forms; None if anything is not known to the letter."""
    form = next((form for known, form in LOSS_FORMS.items() if known is loss), None)
    modules = _in_sequence(network)
    if form is None or not modules or any(getattr(torch_module, name) for name in GLOBAL_HOOKS):
        return None
    images = type(modules[0][1]) is nn.Conv2d
    flatten = type(modules[0][1]) is nn.Flatten
    layers: list[Layer] = []
    vectors = not images
    width: int | None = None
    for i, (prefix, module) in enumerate(modules):
        layer = _layer(prefix, module)
        if layer is None:
            return None
        if flatten and i == 0:  # of whatever shape the input is
            continue
        if isinstance(layer, Linear | RMSNorm if not vectors else Conv2d | BatchNorm | MaxPool2d | Flatten):
            return None
        vectors = vectors or isinstance(layer, Flatten)
        # stacked products would not notice
        takes, gives = _widths(module)
        width = None if isinstance(layer, Flatten) else width
        if takes is not None:
            if width not in (None, takes):
                return None
            width = gives
        if isinstance(layer, BatchNorm) and isinstance(layers[-1], Conv2d):
            layers[-1] = replace(layers[-1], bias_cancels=True)
        layers.append(layer)
    if not layers or not isinstance(layers[-1], Linear):
        return None
    # what two layers share goes by one of its names alone; of a prototype head, tasks make rows
    made = {f"{prefix}{n}" for prefix, m in modules if type(m) is PrototypeHead for n in PrototypeHead.SCALES}
    if frozenset(made).union(*(layer.names for layer in layers)) != dict(network.named_parameters()).keys():
        return None
    return FeedForward(tuple(layers), form, images, flatten)


def _in_sequence(module: nn.Module | None, prefix: str = "") -> list[tuple[str, nn.Module | None]]:
    """The modules that are applied one after the other, each with the prefix of its parameters' names.

    One that is not as its class made it is left out, and None stands for it.
    """
    if module is None or not _is_unchanged(module):
        return [(prefix, None)]
    kind = type(module)
    if not isinstance(module, nn.Sequential) or tuple(getattr(kind, name) for name in CALLS) != SEQUENTIAL:
        return [(prefix, module)]
    # a module may come twice, which named_children would leave out
    return [pair for name, child in module._modules.items() for pair in _in_sequence(child, f"{prefix}{name}.")]


def _is_unchanged(module: nn.Module) -> bool:
    """Whether it has no hook, and no attribute of its own in the place of a method."""
    hooks = module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks
    kind = type(module)
    return not any(hooks) and _methods(kind).isdisjoint(vars(module))  # type: ignore[arg-type]


@cache
def _methods(kind: type[nn.Module]) -> frozenset[str]:
    return frozenset(name for name in dir(kind) if callable(getattr(kind, name, None)))


def _layer(prefix: str, module: nn.Module | None) -> Layer | None:
    """The closed form of one module, or None."""
    if module is None:
        return None
    kind = type(module)
    if FORWARD.get(kind) is not kind.forward or kind.__call__ is not nn.Module.__call__:
        return None
    weight, bias = f"{prefix}weight", f"{prefix}bias" if getattr(module, "bias", None) is not None else ""
    if isinstance(module, nn.Linear | ClassAgnosticHead):
        return Linear(weight, bias)
    if isinstance(module, nn.Conv2d):
        if module.groups != 1 or module.padding_mode != "zeros" or isinstance(module.padding, str):
            return None
        return Conv2d(weight, bias, _pair(module.stride), _pair(module.padding), _pair(module.dilation))
    if isinstance(module, BatchNorm2d | nn.BatchNorm2d):
        return BatchNorm(weight, bias, module.eps) if _by_batch(module) else None
    if isinstance(module, nn.MaxPool2d):
        if module.return_indices:
            return None
        return MaxPool2d(
            size=_pair(module.kernel_size),
            stride=_pair(module.kernel_size if module.stride is None else module.stride),
            padding=_pair(module.padding),
            dilation=_pair(module.dilation),
            ceil_mode=module.ceil_mode,
        )
    if isinstance(module, nn.RMSNorm):
        plain = getattr(module, "weight", None) is None and len(module.normalized_shape) == 1
        return RMSNorm(eps=module.eps) if plain else None
    if isinstance(module, nn.Flatten):
        return Flatten() if (module.start_dim, module.end_dim) == (1, -1) else None
    return ReLU()


def _by_batch(module: BatchNorm2d | nn.BatchNorm2d) -> bool:
    """Whether it normalises by the statistics of the whole batch, and then by a weight and a bias."""
    if getattr(module, "weight", None) is None or getattr(module, "bias", None) is None:
        return False
    if isinstance(module, BatchNorm2d):
        return module.first is None
    # running statistics that are there count in evaluation, whether it tracks them or not
    return not module.track_running_stats and not any(b is not None for b in module._buffers.values())


def _widths(module: nn.Module | None) -> tuple[int | None, int | None]:
    """How many features or channels a layer takes and gives; None if any number."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        return module.weight.shape[1], module.weight.shape[0]
    if isinstance(module, BatchNorm2d | nn.BatchNorm2d):
        return len(module.weight), len(module.weight)
    if isinstance(module, ClassAgnosticHead):
        return module.weight.shape[1], None
    if isinstance(module, nn.RMSNorm):
        return module.normalized_shape[0], module.normalized_shape[0]
    return None, None


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])
