"""The blocks of a network, found in the names of its parameters: a residual block, a transformer's layer, a stem."""

import re

_NUMBERED = re.compile(r".*\d")


def block_of(name: str) -> str:
    """The block that a parameter belongs to: ``body.layer4.1`` for ``body.layer4.1.conv2.weight``.

    Layers that repeat are numbered: the block ends with the first run of numbers in the name, short of the module that
    holds the parameter itself. Where nothing is numbered it is the module, two names deep at most.

    Args:
        name: of a parameter, as ``named_parameters`` gives it.

    Example:
        >>> [block_of(n) for n in ("body.3.0.weight", "body.encoder.layers.encoder_layer_11.ln_1.bias", "head.weight")]
        ['body.3', 'body.encoder.layers.encoder_layer_11', 'head']
    """
    *modules, own = name.split(".")
    first = next((i for i, part in enumerate(modules) if _NUMBERED.fullmatch(part)), None)
    if first is None:
        return ".".join(modules[:2]) or own
    end = first
    while end < len(modules) and _NUMBERED.fullmatch(modules[end]):
        end += 1
    if end == len(modules) and end - first > 1:
        end -= 1
    return ".".join(modules[:end])
