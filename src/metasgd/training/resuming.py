"""Resuming from a checkpoint: what it must hold, and that the optimizer and schedule are those that made it."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from upath import UPath

from metasgd.errors import UserError
from metasgd.runs.checkpoint_schema import MADE_BY_KEY
from metasgd.training.saved_states import validate_optimizer, validate_schedule

OWN = ("torch.", "metasgd.")
"""Optimizers of these packages leave their settings as they are; others may count in them. It matters where a
checkpoint does not say what its training began with, as early ones do not."""
PLAIN = (bool, int, float, str, type(None))


def with_fixed_layout(optimizer: Optimizer) -> Optimizer:
    """The optimizer, whose loaded state takes each parameter's layout in memory, whatever the saved one was.

    A fused step takes the elements of a parameter and of its moments in the order in which they lie in memory.
    """
    optimizer.register_load_state_dict_post_hook(_lay_out)
    return optimizer


@torch.no_grad()
def _lay_out(optimizer: Optimizer) -> None:
    for p, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == p.shape and value.stride() != p.stride():
                state[name] = torch.empty_like(p, dtype=value.dtype).copy_(value)


def made_by(optimizer: Optimizer, scheduler: LRScheduler | None) -> dict[str, Any]:
    """What to save under ``MADE_BY_KEY``, of an optimizer and a schedule that have taken no step yet.

    Once they have, the settings are no longer those that were configured: OneCycleLR moves the momentum as well,
    Prodigy its own estimates.
    """
    return {
        "optimizer": type(optimizer).__name__,
        "schedule": "none" if scheduler is None else type(scheduler).__name__,
        "settings": [_of_group(group) for group in optimizer.state_dict()["param_groups"]],
    }


def validate_resumable(
    path: Path | UPath,
    content: dict[str, Any],
    optimizer: Optimizer | None,
    scheduler: LRScheduler | None = None,
    options: str = "--model.outer",
) -> None:
    """Refuse a checkpoint that lacks what the Trainer needs of it, or that another training made.

    The Trainer would overwrite changed settings by the saved ones, and leave a changed schedule at its start.

    Args:
        path: of the checkpoint.
        content: of the checkpoint.
        optimizer: the outer one, if training resumes from there.
        scheduler: that optimizer's.
        options: where the user chooses them.

    Raises:
        UserError: names what lacks, or how the optimizer and schedule differ from those that are saved.
    """
    needed = ["pytorch-lightning_version"]
    if optimizer is not None:
        needed += ["loops", "callbacks", "optimizer_states", "lr_schedulers"]
    absent = [key for key in needed if key not in content]
    if absent:
        raise UserError(
            f"the checkpoint {path} holds weights, but not {', '.join(absent)}: fit did not write it so. Give last.ckpt"
            " or best.ckpt as a run left it; --init_from starts a new run from weights alone"
        )
    if optimizer is None:
        return
    own = made_by(optimizer, scheduler)
    differing = _classes(content, own) or _settings(content, optimizer, own["settings"])
    if differing:
        raise UserError(
            f"the checkpoint {path} cannot be trained on as configured: {'; '.join(differing)}. Use the same {options}"
            " as the run that wrote it, which its config.yaml has, or start a new run"
        )
    validate_optimizer(path, content["optimizer_states"][0], optimizer)
    if scheduler is not None:
        if not content["lr_schedulers"]:
            raise UserError(f"the checkpoint {path} lacks the state of its schedule: use last.ckpt as the run left it")
        validate_schedule(path, content["lr_schedulers"][0], scheduler)


def _classes(content: dict[str, Any], own: dict[str, Any]) -> list[str]:
    """How they differ from those that are saved."""
    saved = content.get(MADE_BY_KEY, own)
    return [
        f"its {what} is {saved[what]}, the configured one {own[what]}"
        for what in ("optimizer", "schedule")
        if saved[what] != own[what]
    ]


def _settings(content: dict[str, Any], optimizer: Optimizer, own: list[dict[str, Any]]) -> list[str]:
    """How they differ from those that are saved, group by group."""
    began_with = content.get(MADE_BY_KEY, {}).get("settings")
    now = [_of_group(group) for state in content["optimizer_states"] for group in state["param_groups"]]
    saved = now if began_with is None else began_with
    tensors, own_tensors = ([group["tensors"] for group in groups] for groups in (saved, own))
    if tensors != own_tensors:
        return [f"its optimizer has groups of {tensors} tensors, the configured one of {own_tensors}"]
    moves = began_with is None and not type(optimizer).__module__.startswith(OWN)
    return [
        f"its optimizer has {name} {theirs.get(name, 'absent')}, the configured one {ours.get(name, 'absent')}"
        for theirs, ours in zip(saved, own, strict=True)
        for name in sorted(theirs | ours)
        if ((name in theirs) != (name in ours) if moves else theirs.get(name) != ours.get(name))
    ]


def _of_group(group: dict[str, Any]) -> dict[str, Any]:
    """The settings of a group of parameters, as plain values, with the learning rate that its schedule started from."""
    named = {name: value for name, value in group.items() if name not in ("params", "initial_lr")}
    named["lr"] = group.get("initial_lr", group.get("lr"))
    settings = {name: _plain(value) for name, value in named.items()}
    return {name: value for name, value in settings.items() if value is not NotImplemented} | {
        "tensors": len(group["params"])
    }


def _plain(value: Any) -> Any:
    """A value as a checkpoint can hold it and ``==`` compares it; NotImplemented for what is none."""
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value if type(value) in PLAIN else NotImplemented
