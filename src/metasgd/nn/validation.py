"""What a network must be to be meta-trained, and to serve the tasks at hand."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from metasgd.errors import UserError, raise_problems
from metasgd.nn.networks import class_agnostic_names


def validate_trainable(network: nn.Module) -> None:
    """Refuse a network whose result would depend on the tasks met before, or on chance.

    Raises:
        UserError: names the modules with running statistics and those that drop values, and the remedy.
    """
    raise_problems(
        _named(
            network,
            lambda module: getattr(module, "running_mean", None) is not None,
            "keeps running statistics, which would leak from one task into the next. Build it with"
            " track_running_stats=False.",
        )
        + _named(
            network,
            lambda module: isinstance(module, _DropoutNd) and module.p > 0,
            "drops values by chance, so that an inner step taken again, or by a resumed run, would be another one, and"
            " no meta-gradient exact. Leave it out, or set its p to 0.",
        )
    )


def _named(network: nn.Module, is_so: Callable[[nn.Module], bool], said: str) -> list[str]:
    return [
        f"model.network: {name or 'the network'} ({type(module).__name__}) {said}"
        for name, module in network.named_modules()
        if is_so(module)
    ]


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
            f"model.network: {kind} is built for images of shape {shape}, but the tasks' have {given}. Set"
            " model.network.init_args.image_size and in_channels to fit the data"
        )
    try:
        outputs: Tensor = network(support_x)
    except (RuntimeError, IndexError) as error:
        raise UserError(
            f"model.network: {kind} does not take the tasks' inputs of shape"
            f" {tuple(support_x.shape[1:])} ({str(error).splitlines()[0]}). Set its input options (such as"
            " in_channels and image_size, or in_features) to fit the data"
        ) from error
    answers = f"model.network: {kind} answers values of shape {tuple(outputs.shape[1:])} for each example"
    if support_y.is_floating_point() and outputs.shape != support_y.shape:
        raise UserError(
            f"{answers}, but the targets have the shape {tuple(support_y.shape[1:])}. Set its output options (of an"
            " MLP, out_features) to fit the data"
        )
    if n_way > 1 and not class_agnostic_names(network) and outputs.shape[1:] != (n_way,):
        raise UserError(
            f"{answers}, but data.n_way is {n_way}. Set model.network.init_args.n_way (of an MLP, out_features) to"
            f" {n_way}, or use a class-agnostic head, which meets any number of ways"
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
    if agnostic and not agnostic & adapted:
        raise UserError(
            f"model.adapts is {adapts}, which leaves the class-agnostic head as it is: all classes would get the same"
            " output. Let the head adapt too, or give the network a head with a row for each class, as with"
            " --model.network.init_args.head linear"
        )
