"""The states in a checkpoint, held against those that the configured optimizer, schedule and Trainer have."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback, Timer
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from upath import UPath

from metasgd.errors import UserError
from metasgd.runs.checkpoint_schema import is_count, is_number

NOT_NEGATIVE = (
    *("step", "exp_avg_sq", "max_exp_avg_sq", "max_exp_avg_sqs", "exp_inf", "square_avg", "acc_delta", "sum"),
    *("row_var", "col_var", "variance"),
)
"""Of the states of torch's optimizers: what is counted, or a root is taken of."""
MOVED = {
    *("lr", "initial_lr", "max_lr", "min_lr", "swa_lr", "momentum", "betas", "max_momentum", "base_momentum"),
    *("foreach", "fused", "capturable"),
}
"""Settings of torch's optimizers that schedules change, or that say how the same is computed."""
KNOWN = ("torch.", "metasgd.", "lightning.")
"""States of the classes of these packages have the same parts from one run to the next."""
LOADERS = "combined_loader"
"""What Lightning keeps of data loaders, one state for each that has one."""


def validate_optimizer(path: Path | UPath, state: Mapping[str, Any], optimizer: Optimizer) -> None:
    """Refuse an optimizer's state of other tensors than its parameters have, in which a step might write anywhere.

    What torch's optimizers keep is seen by a step of a copy on gradients of zero. Of others, whose state is their own,
    only the numbers are looked at.

    Args:
        path: of the checkpoint.
        state: of one optimizer, with the groups of the configured one.
        optimizer: as configured, before its first step.

    Raises:
        UserError: names the first state that does not fit.
    """
    _validate_groups(path, state["param_groups"], optimizer)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    numbers = [n for group in state["param_groups"] for n in group["params"]]
    if sorted(numbers) != list(range(len(parameters))) or not set(state["state"]) <= set(numbers):
        raise _unfit(path, "its optimizer numbers parameters that are not there")
    module = type(optimizer).__module__
    own = _after_a_step(optimizer) if module.startswith("torch.optim") else {}
    of_parameters = dict(zip(numbers, parameters, strict=True))
    for n, saved in state["state"].items():
        p = of_parameters[n]
        if own and saved and set(saved) != set(own[n]):
            differing = ", ".join(sorted(map(str, set(saved) ^ set(own[n]))))
            raise _unfit(path, f"its optimizer has other states of a parameter of shape {tuple(p.shape)}: {differing}")
        for name, value in saved.items():
            what = f"its optimizer's {name} of a parameter of shape {tuple(p.shape)}"
            if isinstance(value, Tensor) and (value.numel() > max(p.numel(), 1) and own):
                raise _unfit(path, f"{what} has the shape {tuple(value.shape)}")
            if isinstance(value, Tensor) and not value.isfinite().all():
                raise _unfit(path, f"{what} is not finite")
            # a learned optimizer keeps a number, or one for each row, or for each part of a complex one
            learned = (p.shape, p.shape[:1], (*p.shape, 2), ())
            if module.startswith("metasgd.") and isinstance(value, Tensor) and value.shape not in learned:
                raise _unfit(path, f"{what} has the shape {tuple(value.shape)}")
            if not own:
                continue
            fresh = own[n][name]
            if isinstance(fresh, Tensor) != isinstance(value, Tensor):
                raise _unfit(path, f"{what} is a {type(value).__name__}, not a {type(fresh).__name__}")
            if isinstance(value, Tensor) and (value.shape != fresh.shape or value.is_complex() != fresh.is_complex()):
                raise _unfit(path, f"{what} has the shape {tuple(value.shape)}, not {tuple(fresh.shape)}")
            if name in NOT_NEGATIVE and isinstance(value, Tensor) and bool((value < 0).any()):
                raise _unfit(path, f"{what} is negative")


def _validate_groups(path: Path | UPath, groups: Sequence[Mapping[str, Any]], optimizer: Optimizer) -> None:
    """Refuse groups of parameters whose settings are not of the configured kinds, or others than nothing may move.

    Raises:
        UserError: names the first setting that does not fit.
    """
    if [len(group["params"]) for group in groups] != [len(group["params"]) for group in optimizer.param_groups]:
        raise _unfit(path, "its optimizer has other groups of parameters")
    for saved, own in zip(groups, optimizer.param_groups, strict=True):
        theirs, ours = ({n: v for n, v in group.items() if n != "params"} for group in (saved, own))
        for part in _misfits("its optimizer's ", theirs, ours):
            raise _unfit(path, part)
        fixed = ours.keys() & theirs.keys() - MOVED if type(optimizer).__module__.startswith("torch.optim") else ()
        for name in sorted(fixed):
            if _plain(theirs[name]) != _plain(ours[name]):
                raise _unfit(path, f"its optimizer has {name} {_brief(theirs[name])}, the configured one {ours[name]}")


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, Tensor) else list(value) if isinstance(value, tuple) else value


def _after_a_step(optimizer: Optimizer) -> dict[int, dict[str, Any]]:
    twin = copy.deepcopy(optimizer)
    for group in twin.param_groups:
        group.update({name: False for name in ("foreach", "fused", "capturable") if name in group})
        for p in group["params"]:
            p.grad = torch.zeros_like(p)
    twin.step()
    state: dict[int, dict[str, Any]] = twin.state_dict()["state"]
    return {n: state.get(n, {}) for n in range(sum(len(group["params"]) for group in twin.param_groups))}


def validate_schedule(path: Path | UPath, state: Mapping[str, Any], scheduler: LRScheduler) -> None:
    """Refuse a schedule's state whose parts are not those of the configured one, as far as both have them.

    Raises:
        UserError: names the first part that does not fit.
    """
    own = scheduler.state_dict()
    stray = [name for name in state if name not in own and hasattr(scheduler, str(name))]
    if stray:
        raise _unfit(path, f"its schedule has a state {stray[0]}, which is none")
    for part in _misfits("its schedule's ", state, own, lambda n: abs(n) < 2**63):
        raise _unfit(path, part)


def validate_progress(path: Path | UPath, content: Mapping[str, Any], trainer: Trainer) -> None:
    """Refuse loops and states of callbacks that Lightning, and this program, did not write.

    Args:
        path: of the checkpoint.
        content: of the checkpoint; what it lacks is not looked for.
        trainer: with the callbacks of the command.

    Raises:
        UserError: names the first part that does not fit.
    """
    loops = content.get("loops")
    if loops is not None:
        for name in ("fit_loop", "validate_loop", "test_loop", "predict_loop"):
            if name not in loops:
                raise _unfit(path, f"its loops lack {name}")
            own, saved = getattr(trainer, name).state_dict(), copy.copy(loops[name])
            loaders = saved.get("state_dict")
            if isinstance(loaders, dict) and LOADERS in loaders:
                if not (isinstance(loaders[LOADERS], list) and all(isinstance(s, dict) for s in loaders[LOADERS])):
                    raise _unfit(path, f"its {name} has no states of data loaders")
                saved["state_dict"] = {n: v for n, v in loaders.items() if n != LOADERS}
            for key in own.keys() & saved.keys():  # Lightning passes over those of other versions
                for part in _misfits(f"its {name}'s {key}.", saved[key], own[key], is_count, complete=True):
                    raise _unfit(path, part)
        done = _steps(loops["fit_loop"])
        if done is not None and content.get("global_step", done) != done:
            raise _unfit(path, f"its global_step is {content['global_step']}, but its loops have done {done} steps")
    for callback in trainer.callbacks:  # type: ignore[attr-defined] # set by Trainer.__init__
        saved = content.get("callbacks", {}).get(callback.state_key)
        if saved is not None and type(callback).__module__.startswith(KNOWN):
            name = type(callback).__name__
            for part in _misfits(f"its {name}'s ", saved, _fresh_state(callback), complete=True):
                raise _unfit(path, part)


def _fresh_state(callback: Callback) -> dict[str, Any]:
    """Of a callback into which nothing was restored."""
    if isinstance(callback, Timer):  # it begins with a whole 0, and saves fractions of seconds
        return {"time_elapsed": {stage: float(s) for stage, s in callback.state_dict()["time_elapsed"].items()}}
    return callback.state_dict()


def _steps(fit_loop: Mapping[str, Any]) -> int | None:
    try:
        by_hand = fit_loop["epoch_loop.manual_optimization.optim_step_progress"]["total"]["completed"]
        own = fit_loop["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]["total"]["completed"]
    except KeyError:  # of another version of Lightning
        return None
    return int(by_hand) + int(own)


def _misfits(
    name: str, saved: Any, own: Any, allowed: Callable[[Any], bool] = lambda _: True, complete: bool = False
) -> Iterator[str]:
    """What in ``saved`` is not of the kind that ``own`` has there.

    Args:
        name: of both, with what precedes it.
        saved: of plain types and tensors.
        own: as it is before the first step; None stands for what is still to come.
        allowed: whether a whole number is.
        complete: whether parts that only one of them has are wrong.
    """
    here = name.removesuffix("'s ").removesuffix(".")
    if isinstance(own, dict):
        if not isinstance(saved, dict):
            yield f"{here} is a {type(saved).__name__}, not a dict"
            return
        if not own:
            if saved and complete and here.endswith("state_dict"):
                yield f"{here} has {next(iter(saved))}, which is unknown"
            return  # filled in during a run
        for part in own:
            if part in saved:
                yield from _misfits(f"{name}{part}.", saved[part], own[part], allowed, complete)
            elif complete and (isinstance(own[part], bool) or not isinstance(own[part], int)):
                yield f"{here} lacks {part}"
        if complete and set(saved) - set(own):
            yield f"{here} has {sorted(map(str, set(saved) - set(own)))[0]}, which is unknown"
    elif isinstance(own, bool):
        if not isinstance(saved, bool):
            yield f"{here} is {_brief(saved)}, not true or false"
    elif isinstance(own, int):
        if not isinstance(saved, int) or isinstance(saved, bool) or not allowed(saved):
            yield f"{here} is {_brief(saved)}: no such count"
    elif isinstance(own, float | Tensor):
        infinite = not torch.as_tensor(own).isfinite().all()
        plain = isinstance(saved, int | float | Tensor) and not isinstance(saved, bool)
        if not plain or not (is_number(saved) or (infinite and torch.as_tensor(saved).numel() == 1)):
            yield f"{here} is {_brief(saved)}, not a finite number"
    elif isinstance(own, str):
        if not isinstance(saved, str):
            yield f"{here} is {_brief(saved)}, not a text"
    elif isinstance(own, list | tuple):
        if not isinstance(saved, list | tuple) or (own and len(saved) != len(own)):
            yield f"{here} is {_brief(saved)}, not a list of {len(own)}"
        else:
            for i, one in enumerate(own):
                yield from _misfits(f"{name}{i}.", saved[i], one, allowed, complete)
    elif not isinstance(saved, None | str | int | float | Tensor) or (
        isinstance(saved, Tensor) and (saved.numel() != 1 or bool(saved.isnan()))  # infinite: of a run that diverged
    ):
        yield f"{here} is {_brief(saved)}, which is no single value"


def _brief(value: Any) -> str:
    return repr(value)[:60] if isinstance(value, None | str | bool | int | float) else f"a {type(value).__name__}"


def _unfit(path: Path | UPath, what: str) -> UserError:
    return UserError(
        f"the checkpoint {path} cannot be trained on as configured: {what}. Give another, such as checkpoints/best.ckpt"
        " or last.ckpt of the same run; --init_from starts a new run from its weights alone"
    )
