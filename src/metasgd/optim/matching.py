"""Which of a rule's rates serve which parameter of another network."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from metasgd.errors import raise_problems
from metasgd.rules.gradient_descent import UpdateRule


def names_of(rule: UpdateRule, given: Sequence[tuple[str, Tensor]], by_position: bool) -> list[str]:
    """The names that a rule knows parameters by.

    Args:
        rule: bound to what it was learned on.
        given: the parameters with their own names.
        by_position: their names say nothing: the first is the rule's first, and none of the rule's may be missing.

    Raises:
        UserError: the rule serves other tensors; the first that does not match is named.
    """
    serves = rule.serves()
    if serves is None:
        return [name for name, _ in given]
    own = list(serves)
    params = {own[i] if by_position and i < len(own) else name: p for i, (name, p) in enumerate(given)}
    found = [said for name, p in params.items() if (said := _misfit(name, p, serves)) is not None][:1]
    if not found and by_position and len(params) < len(own):
        found = [f"{own[len(params)]} is not among the parameters"]
    raise_problems(
        [
            f"the rates of {type(rule).__name__} do not fit: {said}. They fit the architecture that they were learned"
            " on; an OptimizerNetwork with per_layer false fits any"
            for said in found
        ]
    )
    return list(params)


def _misfit(name: str, p: Tensor, serves: Mapping[str, torch.Size | None]) -> str | None:
    if name not in serves:
        return f"the parameter {name} of shape {tuple(p.shape)} has none"
    shape = serves[name]
    # the one row of a class-agnostic head serves every class
    if shape is None or shape == p.shape or (shape[:1] == (1,) and shape[1:] == p.shape[1:]):
        return None
    return f"those of {name} have the shape {tuple(shape)}, the parameter {tuple(p.shape)}"
