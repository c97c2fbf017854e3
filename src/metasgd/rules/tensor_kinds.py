"""What kind of tensor a parameter is, as far as its name and its shape say."""

import math
import re
from collections.abc import Mapping
from functools import lru_cache

import torch
from torch import Tensor

KINDS = ("matrix", "convolution", "embedding", "vector", "head")
EMBEDDING = re.compile(r"(^|[._])(emb|embed|embedding|embeddings|wte|wpe)(_[^.]*)?(\.weight)?$")
HEAD = re.compile(r"(^|[.])(head|lm_head|classifier|logits|fc)([.]|$)")


def kind_of(name: str, shape: torch.Size) -> int:
    """The place of a parameter's kind in ``KINDS``.

    A vector has fewer than two axes, a convolution's kernel more. A table of symbols or places is known by a name that
    ends as ``embedding.weight``, ``wte.weight`` or ``pos_embed``, the last layer by one such as ``head.weight``,
    ``fc.weight`` or ``classifier.1.weight``. Without names both are matrices.

    Args:
        name: of the parameter.
        shape: of the parameter.

    Example:
        >>> KINDS[kind_of("transformer.wte.weight", torch.Size([65, 32]))]
        'embedding'
        >>> KINDS[kind_of("0", torch.Size([65, 32]))], KINDS[kind_of("head.bias", torch.Size([65]))]
        ('matrix', 'vector')
        >>> KINDS[kind_of("mlp.c_fc.weight", torch.Size([64, 16]))], KINDS[kind_of("pos_embed", torch.Size([1, 9, 8]))]
        ('matrix', 'embedding')
    """
    if len(shape) < 2:
        return KINDS.index("vector")
    if EMBEDDING.search(name):
        return KINDS.index("embedding")
    if HEAD.search(name):
        return KINDS.index("head")
    return KINDS.index("matrix" if len(shape) == 2 else "convolution")


def is_bias_of_head(name: str, shape: torch.Size) -> bool:
    """Whether a parameter is what the last layer adds, as far as its name says.

    Example:
        >>> [is_bias_of_head(n, torch.Size([5])) for n in ("head.bias", "classifier.1.bias", "body.1.bias")]
        [True, True, False]
    """
    return len(shape) < 2 and bool(HEAD.search(name))


def inputs_of(shape: torch.Size) -> int:
    """The inputs of a unit (its fan-in): 1 for a vector."""
    return shape[1:].numel() if len(shape) > 1 else 1


def kinds_and_inputs(shapes: Mapping[str, torch.Size], like: Tensor) -> tuple[Tensor, Tensor]:
    """The kind of each tensor, one of ``KINDS`` as 1 among zeros ``[T, kinds]``, and log10 of its inputs ``[T]``."""
    kinds, inputs = _by_number(tuple(shapes.items()))
    return like.new_tensor(kinds), like.new_tensor(inputs)


@lru_cache
def _by_number(shapes: tuple[tuple[str, torch.Size], ...]) -> tuple[list[list[float]], list[float]]:
    kinds = [[float(kind_of(n, shape) == kind) for kind in range(len(KINDS))] for n, shape in shapes]
    return kinds, [math.log10(inputs_of(shape)) for _, shape in shapes]
