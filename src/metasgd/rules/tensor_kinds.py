"""What kind of tensor each parameter of a network is, as far as their names and shapes say."""

import math
import re
from collections.abc import Mapping
from functools import lru_cache

import torch
from torch import Tensor

KINDS = ("matrix", "convolution", "embedding", "vector", "head")
EMBEDDING = re.compile(r"(^|[._])(emb|embed|embedding|embeddings|wte|wpe)(_[^.]*)?(\.weight)?$")
HEAD = re.compile(r"(.*?[.])?(head|lm_head|classifier|logits|fc)(?=[.]|$)")
MOST_AXES = 3
"""Of a table of symbols or places, such as ``[1, places, width]``."""


class TensorKinds:
    """The kind of each tensor of a network, one of ``KINDS``.

    A vector has fewer than two axes, a convolution's kernel more. A table of symbols or places is known by a name that
    ends as ``embedding.weight``, ``wte.weight`` or ``pos_embed``, and by having no bias, which a layer has. A head is
    the last matrix of a module with such a name as ``head``, ``fc`` or ``classifier``, and what it adds its bias.
    Without names all are matrices, kernels and vectors.

    Args:
        shapes: of all the network's parameters by name, in their order.

    Example:
        >>> sizes = {"wte.weight": [65, 32], "fc.0.weight": [16, 32], "fc.0.bias": [16]}
        >>> sizes |= {"fc.2.weight": [5, 16], "fc.2.bias": [5], "mlp.c_fc.weight": [64, 16]}
        >>> kinds = TensorKinds({name: torch.Size(size) for name, size in sizes.items()})
        >>> {name: kinds.of(name) for name in sizes}["wte.weight"]
        'embedding'
        >>> [kinds.of(name) for name in ("fc.0.weight", "fc.2.weight", "fc.2.bias", "mlp.c_fc.weight")]
        ['matrix', 'head', 'vector', 'matrix']
        >>> kinds.head_biases
        frozenset({'fc.2.bias'})
    """

    def __init__(self, shapes: Mapping[str, torch.Size]) -> None:
        plain = {name: name.partition("#")[0] for name in shapes}  # of several networks' tensors with one name
        biases = {stem(name) for name, own in plain.items() if own.endswith("bias") and len(shapes[name]) == 1}
        self._of = {name: _alone(plain[name], shape, stem(name) in biases) for name, shape in shapes.items()}
        last = {
            (found.group(), name.partition("#")[2]): name  # the last of those of a module
            for name, kind in self._of.items()
            if kind in ("matrix", "convolution") and (found := HEAD.match(plain[name]))
        }
        self._of |= dict.fromkeys(last.values(), "head")
        heads = {stem(name): shapes[name][0] for name in last.values()}
        self.head_biases = frozenset(
            name
            for name, own in plain.items()
            if own.endswith("bias") and len(shapes[name]) == 1 and heads.get(stem(name)) == shapes[name][0]
        )

    def of(self, name: str) -> str:
        """The kind of one of these tensors."""
        return self._of[name]


@lru_cache
def kinds_of(shapes: tuple[tuple[str, torch.Size], ...]) -> TensorKinds:
    """Those of a network that is stepped time and again."""
    return TensorKinds(dict(shapes))


def stem(name: str) -> str:
    """What a layer's weight and bias have in common: the layer's name, and which of several networks it is of."""
    own, _, number = name.partition("#")
    return f"{own.rpartition('.')[0]}#{number}"


def _alone(name: str, shape: torch.Size, has_bias: bool) -> str:
    if len(shape) < 2:
        return "vector"
    if EMBEDDING.search(name) and len(shape) <= MOST_AXES and not has_bias:
        return "embedding"
    return "matrix" if len(shape) == 2 else "convolution"


def inputs_of(shape: torch.Size) -> int:
    """The inputs of a unit (its fan-in): 1 for a vector."""
    return shape[1:].numel() if len(shape) > 1 else 1


def kinds_and_inputs(kinds: TensorKinds, shapes: Mapping[str, torch.Size], like: Tensor) -> tuple[Tensor, Tensor]:
    """The kind of each tensor, as 1 among zeros ``[T, kinds]``, and log10 of its inputs ``[T]``."""
    numbers, inputs = _by_number(tuple(map(kinds.of, shapes)), tuple(shapes.values()))
    return like.new_tensor(numbers), like.new_tensor(inputs)


@lru_cache
def _by_number(kinds: tuple[str, ...], shapes: tuple[torch.Size, ...]) -> tuple[list[list[float]], list[float]]:
    numbers = [[float(kind == one) for one in KINDS] for kind in kinds]
    return numbers, [math.log10(inputs_of(shape)) for shape in shapes]
