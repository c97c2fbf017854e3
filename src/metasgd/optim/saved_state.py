"""The state dict of a ``LearnedOptimizer``, also of earlier versions."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from metasgd.errors import UserError
from metasgd.optim.steps import BUFFER
from metasgd.rules.base import UpdateRule

SETTINGS = {"schedule": None, "scale_free": None}
"""What ``LearnedOptimizer`` chooses where the rule leaves it open, as earlier versions had it."""


def identity_of(rule: UpdateRule) -> dict[str, Any]:
    """What must be the same for φ to mean the same, without what this optimizer chooses by itself."""
    return {name: value for name, value in rule.identity().items() if name not in SETTINGS}


def part_of(rule: UpdateRule) -> dict[str, Any]:
    """What a state dict holds of its rule, with the settings that the optimizer chooses by itself."""
    settings = {name: getattr(rule, name) for name in SETTINGS if hasattr(rule, name)}
    return {"identity": rule.identity(), "phi": rule.state_dict(), "settings": settings}


def is_of_rule(saved: Mapping[str, Any], rule: UpdateRule) -> bool:
    """Whether the state dict's part on its rule was taken under this very rule, φ and all."""
    own = rule.state_dict()
    theirs = {n: v for n, v in saved.get("identity", identity_of(rule)).items() if n not in SETTINGS}
    same = theirs == identity_of(rule) and saved["phi"].keys() == own.keys()
    return same and all(torch.equal(t, own[n].to(t)) for n, t in saved["phi"].items())


def validate_rule(saved: Mapping[str, Any] | None, rule: UpdateRule) -> Mapping[str, Any]:
    """The state dict's part on its rule, if it fits this one.

    Raises:
        UserError: there is none, or it is of another rule; the first difference is named.
    """
    if saved is None:
        raise UserError("the state dict is not of a LearnedOptimizer: it holds no update rule")
    theirs = {n: v for n, v in saved.get("identity", identity_of(rule)).items() if n not in SETTINGS}
    theirs |= {n: t.shape for n, t in saved["phi"].items()}
    own = {n: t.shape for n, t in rule.state_dict().items()} | identity_of(rule)
    differing = [n for n in own | theirs if own.get(n) != theirs.get(n)]
    if differing:
        raise UserError(
            f"the state dict is of another update rule than this {type(rule).__name__}: its"
            f" {differing[0]} is {theirs.get(differing[0], 'absent')} there and"
            f" {own.get(differing[0], 'absent')} here. Use the checkpoint that it was trained with"
        )
    return saved


def restore_settings(saved: Mapping[str, Any], rule: UpdateRule) -> None:
    """Set what the optimizer that was saved had chosen."""
    for name, value in (SETTINGS | saved.get("settings", {})).items():
        if hasattr(rule, name):
            setattr(rule, name, value)


def memory_beside(memory: Mapping[str, Any], named: Mapping[str, Tensor], rule: Tensor) -> dict[str, Any]:
    """Each tensor of a rule's memory beside its parameter, or with the rule, wherever it was saved from.

    Args:
        memory: as it was saved; a parameter's part is KIND.NAME.
        named: the parameters.
        rule: a tensor where the rule is.
    """
    return {
        k: v.to(named.get(k.partition(".")[2], rule).device) if isinstance(v, Tensor) else v for k, v in memory.items()
    }


def in_order_of(optimizer: Optimizer, state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """The state dict with each group's parameters in the optimizer's order, where both have the same names."""
    groups = []
    for saved, own in zip(state_dict["param_groups"], optimizer.param_groups, strict=False):
        theirs, ours = saved.get("param_names"), own.get("param_names")
        if theirs and ours and theirs != ours and sorted(theirs) == sorted(ours):
            numbers = dict(zip(theirs, saved["params"], strict=True))
            saved = {**saved, "param_names": ours, "params": [numbers[name] for name in ours]}
        groups.append(saved)
    return {**state_dict, "param_groups": [*groups, *state_dict["param_groups"][len(groups) :]]}


def state_of_parameters(state_dict: Mapping[str, Any], parameters: Iterable[Tensor]) -> dict[Tensor, dict[str, Any]]:
    """Each parameter's state as it was saved, beside the parameter; torch would round it to the parameter's type.

    Raises:
        UserError: they are of other parameters.
    """
    saved, given = state_dict["state"], list(parameters)
    ids = [i for group in state_dict["param_groups"] for i in group["params"]]
    if len(ids) != len(given):
        raise UserError(f"the state dict is of {len(ids)} parameters, this optimizer has {len(given)}")
    for place, (i, p) in enumerate(zip(ids, given, strict=True)):
        buffer = saved.get(i, {}).get(BUFFER)
        shapes = [p.shape, *([torch.Size((*p.shape, 2))] if p.is_complex() else [])]  # also as pairs of real ones
        if isinstance(buffer, Tensor) and buffer.shape not in shapes:
            raise UserError(
                f"the state dict is of other parameters: the momentum of number {place} has the shape"
                f" {tuple(buffer.shape)}, the parameter {tuple(p.shape)}. Give them in the order of the optimizer that"
                " was saved, or both optimizers named_parameters()"
            )
    return {
        p: {k: v.to(p.device, copy=True) if isinstance(v, Tensor) else v for k, v in saved[i].items()}
        for i, p in zip(ids, given, strict=True)
        if i in saved
    }
