"""A network as the sequence of its layers, with the gradient and the Hessian-vector product of a task's loss.

Only what consists of the layers in ``layers.py`` and ends in a loss known here can be read in this way;
:meth:`FeedForward.of` answers None for everything else, which is then left to autograd.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metasgd.layers import BatchNorm, Conv2d, Flatten, Kept, Layer, Linear, MaxPool2d, ReLU
from metasgd.networks import BatchNorm2d, ClassAgnosticHead
from metasgd.update_rules import Params


class LossForm(ABC):
    """A mean loss over examples: outputs ``[*lead, X, outputs]``."""

    @abstractmethod
    def forward(self, outputs: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Kept]:
        """The loss ``[*lead]``, its gradient in the outputs, and what ``tangent`` needs."""

    @abstractmethod
    def tangent(self, kept: Kept, outputs_dot: Tensor) -> Tensor:
        """How that gradient changes along ``outputs_dot``."""

    @abstractmethod
    def fits(self, y: Tensor, n_outputs: int) -> bool:
        """Whether ``[B, X, …]`` targets are of the kind that is meant here."""


class CrossEntropy(LossForm):
    def forward(self, outputs: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Kept]:
        log_p, at = outputs.log_softmax(dim=-1), y.unsqueeze(-1)
        p, n = log_p.exp(), y.shape[-1]
        loss = -log_p.gather(-1, at).mean(dim=(-2, -1))
        return loss, p.scatter_add(-1, at, p.new_full((), -1.0).expand(at.shape)).div_(n), (p,)

    def tangent(self, kept: Kept, outputs_dot: Tensor) -> Tensor:
        (p,) = kept
        moved = p * outputs_dot
        return moved.addcmul_(p, moved.sum(dim=-1, keepdim=True), value=-1).div_(p.shape[-2])

    def fits(self, y: Tensor, n_outputs: int) -> bool:  # noqa: ARG002
        return y.ndim == 2 and y.dtype == torch.int64


class MeanSquaredError(LossForm):
    def forward(self, outputs: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Kept]:
        error = outputs - y
        return error.square().mean(dim=(-2, -1)), error * (2 / error.shape[-2:].numel()), ()

    def tangent(self, kept: Kept, outputs_dot: Tensor) -> Tensor:  # noqa: ARG002
        return outputs_dot * (2 / outputs_dot.shape[-2:].numel())

    def fits(self, y: Tensor, n_outputs: int) -> bool:
        return y.ndim == 3 and y.shape[-1] == n_outputs


LOSS_FORMS: dict[Callable[..., Tensor], LossForm] = {
    F.cross_entropy: CrossEntropy(),
    F.mse_loss: MeanSquaredError(),
}


@dataclass(frozen=True)
class Pass:
    """A forward pass, and the backward pass down to the lowest layer that was asked for.

    Attributes:
        kept: of each layer.
        loss_kept: of the loss.
        dys: the loss's gradient in each layer's output, by the layer's number.
    """

    kept: list[Kept]
    loss_kept: Kept
    dys: dict[int, Tensor]


@dataclass(frozen=True)
class FeedForward:
    """Layers, one after the other, and the loss.

    Attributes:
        layers: in the order in which they are applied.
        loss: after the last of them.
        images: whether the input is images ``[X, channels, height, width]``; else vectors.
        flatten: whether every example of the input is flattened first.
    """

    layers: tuple[Layer, ...]
    loss: LossForm
    images: bool
    flatten: bool

    @staticmethod
    def of(network: nn.Module, loss: Callable[..., Tensor]) -> "FeedForward | None":
        """``network`` and ``loss`` in this form, or None if they cannot be read so."""
        modules = _in_sequence(network)
        form = LOSS_FORMS.get(loss)
        if not modules or form is None or len({id(m) for _, m in modules}) < len(modules):
            return None
        flatten = type(modules[0][1]) is nn.Flatten and _is_plain(modules[0][1])
        images = type(modules[0][1]) is nn.Conv2d
        layers: list[Layer] = []
        vectors = not images
        for prefix, module in modules[1:] if flatten else modules:
            layer = _layer(prefix, module)
            if layer is None or (vectors and isinstance(layer, Conv2d | BatchNorm | MaxPool2d | Flatten)):
                return None
            if isinstance(layer, Linear) and not vectors:
                return None
            vectors = vectors or isinstance(layer, Flatten)
            if isinstance(layer, ReLU):
                layer = ReLU(in_place=bool(layers) and isinstance(layers[-1], Linear | Conv2d | BatchNorm))
            layers.append(layer)
        if not layers or not isinstance(layers[-1], Linear):
            return None
        return FeedForward(tuple(layers), form, images, flatten)

    @property
    def stacks(self) -> bool:
        """Whether several tasks with weights of their own can go through at once."""
        return not self.images

    @property
    def normalises(self) -> bool:
        """Whether an example's outputs depend on the others in its batch."""
        return any(isinstance(layer, BatchNorm) for layer in self.layers)

    def fits(self, weights: Params, support_x: Tensor, support_y: Tensor) -> bool:
        """Whether ``[B, X, …]`` inputs and targets are of the kind that these layers and this loss mean."""
        n_outputs = weights[self.layers[-1].weight].shape[0]
        ndim = support_x.ndim
        right = ndim == 5 if self.images else ndim == 3 or (self.flatten and ndim > 3)
        return right and support_x.is_floating_point() and self.loss.fits(support_y, n_outputs)

    def prepared(self, x: Tensor, lead: int) -> Tensor:
        """Inputs ``[*lead, X, …]`` in the layout that the layers are fastest with."""
        if self.images:
            return x.to(memory_format=torch.channels_last)
        return x.flatten(lead + 1) if self.flatten else x

    def outputs(self, p: Params, x: Tensor) -> tuple[Tensor, list[Kept]]:
        """The outputs, and what each layer keeps of its pass."""
        all_kept = []
        for layer in self.layers:
            x, kept = layer.forward(p, x)
            all_kept.append(kept)
        return x, all_kept

    def gradient(self, p: Params, x: Tensor, y: Tensor, wanted: frozenset[str]) -> tuple[Tensor, Tensor, Params]:
        """The losses, the outputs, and the losses' gradient in the ``wanted`` parameters."""
        outputs, kept = self.outputs(p, x)
        loss, dy, _ = self.loss.forward(outputs, y)
        return loss, outputs, self._backward(p, kept, dy, wanted, None)

    def recorded_gradient(self, p: Params, x: Tensor, y: Tensor, wanted: frozenset[str]) -> tuple[Tensor, Params, Pass]:
        """The losses and their gradient, and the record of the pass, to differentiate them further."""
        outputs, kept = self.outputs(p, x)
        loss, dy, loss_kept = self.loss.forward(outputs, y)
        made = Pass(kept, loss_kept, {})
        return loss, self._backward(p, list(kept), dy, wanted, made.dys), made

    def full_gradient(self, p: Params, made: Pass) -> Params:
        """The gradient in all parameters, of a pass that is there already."""
        everything = frozenset().union(*(layer.names for layer in self.layers))
        return self._backward(p, list(made.kept), made.dys[len(self.layers) - 1], everything, None)

    def _backward(
        self, p: Params, kept: list[Kept], dy: Tensor | None, wanted: frozenset[str], dys: dict[int, Tensor] | None
    ) -> Params:
        """The gradient in ``wanted``. Uses up ``kept``, so that memory is free as soon as it can be."""
        lowest = self._lowest(wanted)
        grads: Params = {}
        for i in reversed(range(lowest, len(self.layers))):
            assert dy is not None
            if dys is not None:
                dys[i] = dy
            dy, found = self.layers[i].backward(p, kept.pop(), dy, needs_dx=i > lowest)
            grads.update(found)
        return {n: g for n, g in grads.items() if n in wanted}

    def hessian_product(self, p: Params, made: Pass, omega: Params) -> Params:
        """``H ω``: how the gradient in every parameter changes along the direction ``omega``."""
        dot_kept = []
        x_dot: Tensor | None = None
        for layer, kept in zip(self.layers, made.kept, strict=True):
            x_dot, own = layer.tangent(p, omega, kept, x_dot)
            dot_kept.append(own)
        assert x_dot is not None, "omega names no parameter of the network"
        dy_dot: Tensor | None = self.loss.tangent(made.loss_kept, x_dot)
        found: Params = {}
        lowest = self._lowest(frozenset(p))
        for i in reversed(range(lowest, len(self.layers))):
            assert dy_dot is not None
            # below the lowest layer that adapts nothing moves, and dy was not asked for
            dy = made.dys.get(i, dy_dot)
            dy_dot, own_found = self.layers[i].tangent_backward(
                p, omega, made.kept[i], dot_kept[i], dy, dy_dot, needs_dx=i > lowest
            )
            found.update(own_found)
        return found

    def _lowest(self, names: frozenset[str]) -> int:
        """The number of the first layer with one of these parameters."""
        return next(i for i, layer in enumerate(self.layers) if layer.names & names)


def _in_sequence(module: nn.Module, prefix: str = "") -> list[tuple[str, nn.Module]]:
    """The modules that are applied one after the other, each with the prefix of its parameters' names."""
    if any((module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)):
        return [(prefix, nn.Module())]  # what hooks do is not known
    if not isinstance(module, nn.Sequential) or type(module).forward is not nn.Sequential.forward:
        return [(prefix, module)]
    return [pair for name, child in module.named_children() for pair in _in_sequence(child, f"{prefix}{name}.")]


def _is_plain(flatten: nn.Flatten) -> bool:
    return flatten.start_dim == 1 and flatten.end_dim == -1


def _layer(prefix: str, module: nn.Module) -> Layer | None:
    """The closed form of one module, or None: subclasses may do anything, so types must be exact."""
    weight, bias = f"{prefix}weight", f"{prefix}bias" if getattr(module, "bias", None) is not None else ""
    kind = type(module)
    if isinstance(module, nn.Linear | ClassAgnosticHead) and kind in (nn.Linear, ClassAgnosticHead):
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
    if isinstance(module, nn.Flatten) and kind is nn.Flatten:
        return Flatten() if _is_plain(module) else None
    return None


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])
