"""A learner that has learned one task. Shape letters: X examples, N classes."""

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from metasgd.episode import from_pixels
from metasgd.errors import UserError
from metasgd.learner.predictor import Labels, Predictor
from metasgd.meta.model import MetaModel
from metasgd.nn.behaviour import undisturbed
from metasgd.nn.calling import call, logits_of
from metasgd.nn.prefix import ERRORS
from metasgd.rules.base import Params


@dataclass(frozen=True)
class AdaptedLearner(Predictor):
    """A learner that has learned one task.

    Attributes:
        network: a plain network in evaluation mode; outputs logits ``[X, N]`` in the order of ``classes_``.
        classes_: the N classes, sorted; none in regression.
        n_features_in_: values of one example.
        support_losses_: ``[S + 1]``, the loss on the support set before, between and after the inner steps.
        rates_: of each inner step, the learning rates that the rule used, by the name of the parameter; empty
            for a rule that steps without rates.
        input_shape: shape of one example.
        input_dtype: of the examples as the network takes them.
    """

    network: nn.Module
    classes_: Labels | None
    n_features_in_: int
    support_losses_: NDArray[np.float64]
    rates_: list[Params]
    input_shape: tuple[int, ...]
    input_dtype: torch.dtype
    _model: MetaModel = field(repr=False)
    _params: Params = field(repr=False)

    @torch.no_grad()
    def decision_function(self, x: ArrayLike | Tensor, transductive: bool = False) -> NDArray[np.float32]:
        """The network's outputs, ``[X, N]``.

        Args:
            x: as ``MetaLearner.adapt`` takes.
            transductive: let BatchNorm normalise by the statistics of x, as in the published protocols, instead
                of the support set's; then examples influence each other.
        """
        inputs = as_inputs(self._model.network, x)
        if inputs[0].numel() != self.n_features_in_:
            raise UserError(
                f"x has the shape {tuple(inputs.shape)}, but this learner was adapted to examples of"
                f" {self.n_features_in_} values each"
            )
        if transductive:
            outputs = call(self._model.network, self._params, inputs)
        else:
            outputs = logits_of(self.network(inputs), self.network)
        return as_array(outputs)

    def example(self) -> Tensor:
        """Two inputs of the right shape and type, to export the network with."""
        return torch.zeros(2, *self.input_shape, dtype=self.input_dtype)


def as_inputs(network: nn.Module, x: ArrayLike | Tensor) -> Tensor:
    """Examples as the network takes them, on its device: ``[X, …]`` of its weights' type, images from 0 to 1.

    Whole numbers stay what they are for a network with an embedding that takes nothing else.

    Raises:
        UserError: they have another shape, or values that are not finite.
    """
    given = x if isinstance(x, Tensor) else torch.from_numpy(np.ascontiguousarray(x))
    dtype = float_dtype(network)
    inputs = given.long() if _takes_whole_numbers(network, given, dtype) else from_pixels(given, dtype).to(dtype)
    shape: tuple[int, ...] | None = getattr(network, "image_shape", None)
    if inputs.ndim < 2:
        raise UserError(f"x has the shape {tuple(inputs.shape)}: [X, …] is needed, X examples of some values each")
    if shape is not None and given.dtype != torch.uint8 and _are_pixel_values(given):
        raise UserError(
            f"x is {given.dtype} up to {float(given.max()):g}: images are uint8, or float from 0 to 1. Divide by 255"
        )
    if shape is not None and inputs.shape[1:] != shape:
        flattened = inputs.ndim == 2 and inputs.shape[1] == np.prod(shape)
        without_channel = shape[0] == 1 and inputs.shape[1:] == shape[1:]
        if not flattened and not without_channel:
            raise UserError(
                f"x has the shape {tuple(inputs.shape)}: this network takes images [X, channels, height, width] of"
                f" [X, {', '.join(map(str, shape))}]"
            )
        inputs = inputs.reshape(-1, *shape)
    if not len(inputs):
        raise UserError("x is empty: at least one example is needed")
    if not inputs.isfinite().all():
        raise UserError("x has values that are not finite")
    return inputs.to(next(network.parameters()).device)


def as_array(outputs: Tensor) -> NDArray[np.float32]:
    """Outputs in NumPy, which has no bfloat16."""
    array: NDArray[np.float32] = outputs.to("cpu", torch.promote_types(outputs.dtype, torch.float32)).numpy()
    return array


def float_dtype(network: nn.Module) -> torch.dtype:
    """Of the network's weights."""
    return next((p.dtype for p in network.parameters() if p.is_floating_point()), torch.float32)


def _takes_whole_numbers(network: nn.Module, given: Tensor, dtype: torch.dtype) -> bool:
    """Whether these are whole numbers by which the network looks up rows of a table, not numbers to compute with."""
    whole = not (given.is_floating_point() or given.is_complex() or given.dtype in (torch.uint8, torch.bool))
    if not whole or not any(isinstance(module, nn.Embedding) for module in network.modules()):
        return False
    device = next(network.parameters()).device
    try:
        with torch.no_grad(), undisturbed(network, device):
            call(network, {}, given[:2].to(device, dtype))
    except ERRORS:
        return True
    return False


def _are_pixel_values(x: Tensor) -> bool:
    """Whether these can only be meant as 0 … 255."""
    return bool(x.numel() and x.min() >= 0 and x.max() > 1 and (x == x.round()).all())
