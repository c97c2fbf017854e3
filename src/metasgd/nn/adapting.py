"""Which of a network's parameters adapt to a task."""

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from itertools import groupby

from torch import nn

from metasgd.errors import UserError, raise_problems, some_of
from metasgd.nn.heads import PrototypeHead
from metasgd.nn.networks import prototype_head
from metasgd.rules.blocks import block_of

Names = frozenset[str]
_LAST = re.compile(r"last:(\d+)")
WORDS = "all, head, body (where the network has a submodule named head), last:K, norms, biases"


def adapted_names(network: nn.Module, adapts: str | Sequence[str]) -> Names:
    """Names of the parameters that adapt; those with ``requires_grad`` false never do.

    Args:
        network: what adapts; its head is its submodule ``head``.
        adapts: one of these, or several, of which all count: ``all``; ``head``; ``body``, all but the head; ``last:K``,
            the last K blocks, of which the head is one (see ``metasgd.rules.blocks``); ``norms``, the scales and shifts
            of normalisations; ``biases``; patterns of parameter names, as ``body.layer4.*``.

    Raises:
        UserError: one of them fits no parameter, or all are frozen.
    """
    start = prototype_head(network)
    scales = () if start is None else tuple(f"{start[0]}.{n}" for n in PrototypeHead.SCALES)
    names = [name for name, p in network.named_parameters() if p.requires_grad and name not in scales]
    if not names:
        raise UserError(
            f"{type(network).__name__} has no parameter that can adapt: all are frozen (requires_grad False), or there"
            " is none. Leave requires_grad true for what a task is to change"
        )
    words = [adapts] if isinstance(adapts, str) else list(adapts)
    found = {word: _chosen(network, names, word) for word in words}
    raise_problems(
        [
            f"adapts has {word!r}, which fits no parameter of {type(network).__name__} that is not frozen: use {WORDS},"
            f" or patterns of {some_of(sorted(names), 20)}"
            for word in words
            if not found[word]
        ]
    )
    return frozenset[str]().union(*found.values())


def _chosen(network: nn.Module, names: Sequence[str], word: str) -> Names:
    head = frozenset(name for name in names if name.startswith("head."))
    if word == "all":
        return frozenset(names)
    if word in ("head", "body") and head:
        return head if word == "head" else frozenset(names) - head
    if last := _LAST.fullmatch(word):
        count = int(last[1])
        return frozenset(names) & frozenset(n for block in _blocks(network)[-count:] for n in block if count)
    if word == "norms":
        return frozenset(names) & _of_norms(network)
    if word == "biases":
        return frozenset(n for n in names if "bias" in n.rpartition(".")[2] and network.get_parameter(n).ndim < 2)
    return frozenset(n for n in names if fnmatchcase(n, word))


def _blocks(network: nn.Module) -> list[list[str]]:
    """The names of the parameters by blocks, in order; a block without a matrix belongs to the one before it."""
    shapes = {name: p.ndim for name, p in network.named_parameters()}
    blocks: list[list[str]] = []
    for block, members in groupby(shapes, key=block_of):
        own = list(members)
        if blocks and block != "head" and all(shapes[n] < 2 for n in own):
            blocks[-1] += own
        else:
            blocks.append(own)
    return blocks


def _of_norms(network: nn.Module) -> Names:
    """Names of the parameters of normalisations, known by their class's name and by having no matrix."""
    return frozenset(
        f"{prefix}.{name}".lstrip(".")
        for prefix, module in network.named_modules()
        if isinstance(module, nn.LayerNorm)  # over one axis or several
        or ("norm" in type(module).__name__.lower() and all(p.ndim < 2 for p in module.parameters()))
        for name, _ in module.named_parameters(recurse=False)
    )
