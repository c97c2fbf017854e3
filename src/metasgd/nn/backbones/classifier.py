"""Where a network's classifier is, found by running it, so that another head can be put in its place."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from metasgd.errors import UserError, first_line
from metasgd.nn.calling import hooked


@torch.no_grad()
def cut_classifier(network: nn.Module, example: Tensor, name: str | None) -> tuple[str, int]:
    """Replace the classifier by the identity; return its name, empty if there was none, and the features then put out.

    The classifier is the last module with parameters that a pass goes through, if it is an ``nn.Linear`` or a 1×1
    convolution; a network that ends otherwise puts out features already.

    Args:
        network: changed in place.
        example: two inputs.
        name: of the module to cut off, instead; empty for none.

    Raises:
        UserError: it does not take the example, or has no such module.
    """
    if name is None:
        name = _last_linear(network, example)
    elif name and name not in dict(network.named_modules()):
        near = ", ".join(n for n, _ in network.named_children())
        raise UserError(f"classifier is {name!r}, but {type(network).__name__} has no such module: it has {near}")
    if name:
        parent, _, own = name.rpartition(".")
        setattr(network.get_submodule(parent), own, nn.Identity())
    return name, features_of(_run(network, example)).shape[1]


def features_of(outputs: Any) -> Tensor:
    """The features of each example, ``[X, D]``: what a network puts out, averaged over places or positions.

    A map ``[X, D, height, width]`` is averaged over its places, a sequence ``[X, T, D]`` over its positions. Of several
    outputs the first counts, or the one with a name that says it.
    """
    if isinstance(outputs, Mapping):
        known = ("pooler_output", "features", "last_hidden_state", "logits", "out")
        outputs = next((outputs[n] for n in known if outputs.get(n) is not None), next(iter(outputs.values()), None))
    if isinstance(outputs, tuple | list) and outputs:
        outputs = outputs[0]
    if not isinstance(outputs, Tensor) or outputs.ndim < 2:
        raise UserError("the model puts out no tensor of features for each example, [X, D]: let its forward return one")
    if outputs.ndim == 3:
        return outputs.mean(dim=1)
    return outputs.flatten(2).mean(dim=2) if outputs.ndim > 3 else outputs


def _last_linear(network: nn.Module, example: Tensor) -> str:
    called: list[str] = []
    hooks = (
        module.register_forward_pre_hook(lambda *_, name=name: called.append(name))
        for name, module in network.named_modules()
        if module._parameters
    )
    with hooked(hooks):
        _run(network, example)
    if not called:
        return ""
    last = network.get_submodule(called[-1])
    point = isinstance(last, nn.Conv2d) and last.kernel_size == (1, 1)
    return called[-1] if isinstance(last, nn.Linear) or point else ""


def _run(network: nn.Module, example: Tensor) -> Any:
    modes = [(module, module.training) for module in network.modules()]
    network.eval()  # in which one pass leaves no traces
    try:
        return network(example)
    except (RuntimeError, ValueError, TypeError, LookupError, AssertionError) as error:
        raise UserError(
            f"{type(network).__name__} does not take examples of the shape {list(example.shape[1:])}"
            f" ({first_line(error)}). Set image_size to what it takes: pixels, or the whole shape of an example"
        ) from error
    finally:
        for module, training in modes:
            module.training = training
