"""What a network must be to be meta-trained, and to serve the tasks at hand."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from metasgd.errors import UserError, first_line, some_of
from metasgd.nn.calling import call
from metasgd.nn.networks import class_agnostic_names, prototype_head


def validate_initialised(network: nn.Module) -> None:
    """Refuse layers whose shapes are not known yet: the update rule needs the shapes of all parameters.

    Raises:
        UserError: names the layers, and the remedy.
    """
    lazy = [
        f"{name or 'the network itself'} ({type(module).__name__})"
        for name, module in network.named_modules()
        if any(is_lazy(t) for t in (*module._parameters.values(), *module._buffers.values()))
    ]
    if lazy:
        raise UserError(
            f"{type(network).__name__} has layers without shapes: {some_of(lazy, 5)}. The update rule needs"
            " all shapes beforehand: give these layers their sizes (nn.Linear(in, out) for nn.LazyLinear(out)), or run"
            " the network once on an example at the end of its __init__"
        )


@torch.no_grad()
def validate_tasks(network: nn.Module, support_x: Tensor, support_y: Tensor, n_way: int) -> None:
    """Refuse a network that does not take the tasks' inputs, or whose outputs are not of their targets' shape.

    Args:
        network: f, as it was built.
        support_x: one task's support inputs, ``[X, …]``.
        support_y: its targets: class numbers ``[X]``, or in regression numbers ``[X, …]``.
        n_way: N; 1 in regression.

    Raises:
        UserError: names what the network was given and what it made of it.
    """
    kind = type(network).__name__
    shape, given = getattr(network, "image_shape", None), tuple(support_x.shape[1:])
    if shape is not None and given != shape:  # it might take others, and mean something else by its weights
        raise UserError(
            f"network is {kind}, built for images of shape {shape}, but the tasks' have {given}. Set its image_size and"
            " in_channels to fit the data"
        )
    try:
        outputs = call(network, {}, support_x)
    except UserError:
        raise
    except (RuntimeError, LookupError, ValueError, TypeError) as error:
        raise UserError(
            f"network is {kind}, which does not take the tasks' inputs of shape"
            f" {tuple(support_x.shape[1:])} ({first_line(error)}). Set its input options (such as"
            " in_channels and image_size, or in_features) to fit the data"
        ) from error
    returned = f"network is {kind}, which returns values of shape {tuple(outputs.shape[1:])} for each example"
    if support_y.is_floating_point() and outputs.shape != support_y.shape:
        raise UserError(
            f"{returned}, but the targets have the shape {tuple(support_y.shape[1:])}. Set its output options (of an"
            " MLP, out_features) to fit the data"
        )
    if n_way > 1 and not class_agnostic_names(network) and outputs.shape[1:] != (n_way,):
        raise UserError(
            f"{returned}, but n_way is {n_way}. Set the network's n_way (of an MLP, out_features) to"
            f" {n_way}, or use a class-agnostic head, which meets any number of ways"
        )


def validate_ways(network: nn.Module, ways: Sequence[int]) -> None:
    """Refuse tasks of different numbers of classes for a network with a row for each.

    Args:
        network: f.
        ways: N of each shape of tasks.

    Raises:
        UserError: says what to do.
    """
    if len(set(ways)) > 1 and not class_agnostic_names(network):
        listed = ", ".join(map(str, sorted(set(ways))))
        raise UserError(
            f"train_shapes has {listed} ways, but {type(network).__name__} has outputs for one number of classes:"
            " give all the same number, or use a head for any number of them, class_agnostic or prototype"
        )


def validate_classes_differ(network: nn.Module, adapted: frozenset[str], adapts: str | Sequence[str]) -> None:
    """Refuse to adapt everything but a class-agnostic head, whose classes would all keep one output.

    Args:
        network: f.
        adapted: the names of the parameters that adapt.
        adapts: what they were chosen by, for the message.

    Raises:
        UserError: says what to do.
    """
    agnostic = class_agnostic_names(network)
    if agnostic and not agnostic & adapted and prototype_head(network) is None:
        raise UserError(
            f"adapts is {adapts}, which leaves the class-agnostic head as it is: all classes would get the same"
            " output. Let the head adapt too, or give the network a head with a row for each class, as Conv4"
            " has with head linear"
        )
