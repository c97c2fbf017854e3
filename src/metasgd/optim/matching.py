"""Which of a rule's rates serve which parameter of another network."""

import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from metasgd.errors import raise_problems
from metasgd.rules.base import Params, UpdateRule

log = logging.getLogger("metasgd")
WRAPPERS = re.compile(r"(?<![^.])(module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""What DataParallel, ``torch.compile`` and the like put into the names of a network's parameters."""


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
    unwrapped = {WRAPPERS.sub("", name): name for name in own}

    def name_of(i: int, name: str) -> str:
        if by_position and i < len(own):
            return own[i]
        return name if name in serves else unwrapped.get(WRAPPERS.sub("", name), name)

    params = {name_of(i, name): p for i, (name, p) in enumerate(given)}
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


def given_names(groups: Sequence[Mapping[str, Any]]) -> Params:
    """All parameters of an optimizer's groups, under their names if they have any, otherwise numbered."""
    named: Params = {}
    seen: Counter[str] = Counter()
    for group in groups:
        for i, p in enumerate(group["params"]):
            name = group["param_names"][i] if "param_names" in group else str(len(named))
            named[f"{name}#{seen[name]}" if seen[name] else name] = p  # the second network's has the name and #1
            seen[name] += 1
    return named


def names_by_group(rule: UpdateRule, groups: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The rule's name of each parameter, group by group.

    Raises:
        UserError: as ``names_of``.
    """
    by_position = "param_names" not in groups[0]
    if by_position and rule.reads_names:
        log.warning(
            "LearnedOptimizer: %s steps embeddings and the head as other matrices, as it cannot tell them: give"
            " network.named_parameters()",
            type(rule).__name__,
        )
    names = iter(names_of(rule, [*given_names(groups).items()], by_position))
    return [[next(names) for _ in group["params"]] for group in groups]


def _misfit(name: str, p: Tensor, serves: Mapping[str, torch.Size | None]) -> str | None:
    if name not in serves:
        return f"the parameter {name} of shape {tuple(p.shape)} has none"
    shape = serves[name]
    # the one row of a class-agnostic head serves every class
    if shape is None or shape == p.shape or (shape[:1] == (1,) and shape[1:] == p.shape[1:]):
        return None
    return f"those of {name} have the shape {tuple(shape)}, the parameter {tuple(p.shape)}"
