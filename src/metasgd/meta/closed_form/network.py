"""A network as the sequence of its layers, with the gradient and the Hessian-vector product of a task's loss."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from metasgd.episode import Episode
from metasgd.meta.closed_form.batch_norm import BatchNorm
from metasgd.meta.closed_form.layers import Layer, Saved
from metasgd.meta.closed_form.losses import LossForm
from metasgd.meta.closed_form.products import product
from metasgd.rules.base import Params


@dataclass(frozen=True)
class Pass:
    """A forward pass, and the backward pass down to the lowest layer that was asked for.

    Attributes:
        saved: of each layer.
        loss_saved: of the loss.
        dys: the loss's gradient in each layer's output, by the layer's number.
    """

    saved: list[Saved]
    loss_saved: Saved
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

    @property
    def stacked(self) -> "FeedForward":
        """The same of several tasks at once."""
        return replace(self, layers=tuple(layer.stacked for layer in self.layers))

    @property
    def normalises(self) -> bool:
        """Whether an example's outputs depend on the others in its batch."""
        return any(isinstance(layer, BatchNorm) for layer in self.layers)

    def fits(self, weights: Params, tasks: Episode) -> bool:
        """Whether the tasks and the weights are of the kind that these layers and this loss mean."""
        first = next(weights[layer.weight] for layer in self.layers if layer.weight)
        n_outputs = weights[self.layers[-1].weight].shape[0]

        def fit(x: Tensor, y: Tensor) -> bool:
            if self.images:
                right = x.ndim == 5 and x.shape[2] == first.shape[1]
            else:
                right = (x.ndim == 3 or (self.flatten and x.ndim > 3)) and x.shape[2:].numel() == first.shape[1]
            return right and x.dtype == first.dtype and self.loss.fits(x, y, n_outputs)

        # other tensors have arithmetic of their own, and half precision sums in another
        return (
            first.dtype in (torch.float32, torch.float64)
            and all(type(p) in (Tensor, nn.Parameter) and p.dtype == first.dtype for p in weights.values())
            and fit(tasks.support_x, tasks.support_y)
            and fit(tasks.query_x, tasks.query_y)
        )

    def prepared(self, x: Tensor, lead: int) -> Tensor:
        """Inputs ``[*lead, X, …]`` as the first layer takes them; images in the layout of the fastest convolutions."""
        if self.images:
            return x.to(memory_format=torch.channels_last) if x.is_cpu and not lead else x
        return x.flatten(lead + 1) if self.flatten else x

    def outputs(self, p: Params, x: Tensor) -> tuple[Tensor, list[Saved]]:
        """The outputs, and what each layer saves of its pass."""
        x, all_saved = self.features(p, x)
        x, saved = self.layers[-1].forward(p, x)
        return x, [*all_saved, saved]

    def features(self, p: Params, x: Tensor) -> tuple[Tensor, list[Saved]]:
        """What the last layer reads, and what each layer below it saves of its pass."""
        all_saved = []
        for layer in self.layers[:-1]:
            x, saved = layer.forward(p, x)
            all_saved.append(saved)
        return x, all_saved

    def features_vjp(self, p: Params, saved: list[Saved], dx: Tensor) -> Params:
        """``dx · ∂features`` in every parameter below the last layer; uses up ``saved``."""
        below = frozenset[str]().union(*(layer.names for layer in self.layers[:-1]))
        return self._backward(p, saved, dx, below, None) if below else {}

    def gradient(self, p: Params, x: Tensor, y: Tensor, wanted: frozenset[str]) -> tuple[Tensor, Tensor, Params]:
        """The losses, the outputs, and the losses' gradient in the ``wanted`` parameters."""
        outputs, saved = self.outputs(p, x)
        loss, dy, _ = self.loss.forward(outputs, y)
        return loss, outputs, self._backward(p, saved, dy, wanted, None)

    def recorded_gradient(self, p: Params, x: Tensor, y: Tensor, wanted: frozenset[str]) -> tuple[Tensor, Params, Pass]:
        """The losses and their gradient, and the record of the pass, to differentiate them further."""
        outputs, saved = self.outputs(p, x)
        loss, dy, loss_saved = self.loss.forward(outputs, y)
        made = Pass(saved, loss_saved, {})
        return loss, self._backward(p, list(saved), dy, wanted, made.dys), made

    def full_gradient(self, p: Params, made: Pass, by: Tensor) -> Params:
        """``by · ∂losses`` in all parameters, of a pass that is there already; in shared ones, over all tasks."""
        everything = frozenset().union(*(layer.names for layer in self.layers))
        dy = by[..., None, None] * made.dys[len(self.layers) - 1]
        return self._backward(p, list(made.saved), dy, everything, None)

    def _backward(
        self, p: Params, saved: list[Saved], dy: Tensor | None, wanted: frozenset[str], dys: dict[int, Tensor] | None
    ) -> Params:
        """The gradient in ``wanted``, from ``dy`` in the output of the last layer in ``saved``.

        Uses up ``saved``, so that memory is free as soon as it can be.
        """
        lowest = self._lowest(wanted)
        grads: Params = {}
        for i in reversed(range(lowest, len(saved))):
            assert dy is not None
            if dys is not None:
                dys[i] = dy
            dy, found = self.layers[i].backward(p, saved.pop(), dy, needs_dx=i > lowest)
            grads.update(found)
        return {n: g for n, g in grads.items() if n in wanted}

    def hessian_product(self, p: Params, made: Pass, omega: Params) -> Params:
        """``H ω``: how the gradient in every parameter changes along the direction ``omega``."""
        dot_saved = []
        x_dot: Tensor | None = None
        for layer, saved in zip(self.layers, made.saved, strict=True):
            x_dot, own = layer.tangent(p, omega, saved, x_dot)
            dot_saved.append(own)
        assert x_dot is not None, "omega names no parameter of the network"
        dy_dot: Tensor | None = self.loss.tangent(made.loss_saved, x_dot)
        found: Params = {}
        lowest = self._lowest(frozenset(p))
        for i in reversed(range(lowest, len(self.layers))):
            assert dy_dot is not None
            # below the lowest layer that adapts nothing moves, and dy was not asked for
            dy = made.dys.get(i, dy_dot)
            dy_dot, own_found = self.layers[i].tangent_backward(
                p, omega, made.saved[i], dot_saved[i], dy, dy_dot, needs_dx=i > lowest
            )
            found.update(own_found)
        return found

    def hessian_product_below(self, p: Params, made: Pass, omega: Params) -> Params:
        """``H ω`` below the last layer, where that gives all its outputs alike and the loss does not see that.

        The gradient in the last layer's input is then zero, whatever the layers below, and changes with that layer's
        weight alone: by ``dy · ω``. So one backward pass does; none where the rule leaves that weight as it is.
        """
        below = frozenset().union(*(layer.names for layer in self.layers[:-1]))
        last = len(self.layers) - 1
        if not below or self.layers[last].weight not in omega:
            return {}
        dx = product(made.dys[last], omega[self.layers[last].weight])
        return self._backward(p, list(made.saved[:last]), dx, below, None)

    def _lowest(self, names: frozenset[str]) -> int:
        """The number of the first layer with one of these parameters."""
        return next(i for i, layer in enumerate(self.layers) if layer.names & names)
