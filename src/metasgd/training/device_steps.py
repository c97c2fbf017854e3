"""An outer optimizer whose steps the host does not wait for: it prepares the next while the device takes this one."""

from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

AHEAD: tuple[str, ...] = ("cuda",)
"""Types of devices that work behind the host's back."""
CHOSEN_BY_USERS = ("fused", "foreach", "capturable", "differentiable")


def runs_ahead(optimizer: Optimizer, device: torch.device) -> bool:
    """Whether the optimizer leaves a step out by a value on the device, which the host need not know."""
    return device.type in AHEAD and getattr(optimizer, "_step_supports_amp_scaling", False)


def fused(optimizer: Optimizer, device: torch.device) -> Optimizer:
    """The optimizer by torch's fused kernels, where its class has them and its settings leave that open.

    Its state is saved as if they were not used: a checkpoint is none of a device's.

    Args:
        optimizer: one that has taken no step yet.
        device: of its parameters.
    """
    kind: Any = type(optimizer)
    settings = {name: value for name, value in optimizer.defaults.items() if name in signature(kind).parameters}
    is_open = not any(group.get(name) for group in optimizer.param_groups for name in CHOSEN_BY_USERS)
    is_open = is_open and all(p.is_floating_point() for group in optimizer.param_groups for p in group["params"])
    if device.type not in AHEAD or not kind.__module__.startswith("torch.optim.") or "fused" not in settings:
        return optimizer
    if not is_open:
        return optimizer
    try:
        made: Optimizer = kind([{**group, "fused": True} for group in optimizer.param_groups], **settings | FUSED)
    except (RuntimeError, ValueError):  # not for these parameters, or not on this device
        return optimizer
    made.register_state_dict_post_hook(_save_unfused)
    made.register_load_state_dict_post_hook(_fuse_again)
    return made


FUSED = {"fused": True}


def _save_unfused(optimizer: Optimizer, state: dict[str, Any]) -> None:  # noqa: ARG001
    for group in state["param_groups"]:
        group["fused"] = None


def _fuse_again(optimizer: Optimizer) -> None:
    for group in optimizer.param_groups:
        group.update(FUSED)
    for p, state in optimizer.state.items():
        if isinstance(state.get("step"), Tensor):
            state["step"] = state["step"].to(p.device, torch.float32)
