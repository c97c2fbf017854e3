"""What a checkpoint holds: one format with a number, checked as a whole before anything is made of it."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from upath import UPath

from metasgd.errors import UserError

FORMAT = 1
FORMAT_KEY = "metasgd_format"
CONFIG_KEY = "metasgd_config"
"""The run's config.yaml."""
MADE_BY_KEY = "metasgd_made_by"
"""What its training began with: the classes of the optimizer and of the schedule, and the optimizer's settings."""
SKIPPED_KEY = "metasgd_skipped"
"""How many outer steps were skipped."""
TRAINING_WEIGHTS_KEY = "metasgd_training_weights"
"""The weights of the next outer step, where the optimizer evaluates others."""
RUNS_KEY = "metasgd_long_runs"
"""The inner runs under way."""
MOST_VALUES = 2_000_000
MOST_STRETCHED = 2**20
"""Elements of a tensor that are more than are stored for it, as expand makes it."""
DEEPEST = 40
_VERSION = re.compile(r"\d+(\.\d+){0,3}([-.+]?[0-9A-Za-z]+)*")

Check = Callable[[Any], bool]


def is_count(value: Any) -> bool:
    """A whole number from 0 that fits 64 bits."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def is_number(value: Any) -> bool:
    """A finite one, as such or as a tensor of one element."""
    if isinstance(value, Tensor):
        return value.numel() == 1 and not value.is_complex() and bool(value.isfinite().all())
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")


def _all(value: Any, kind: type[list[Any]] | type[dict[Any, Any]], each: Check) -> bool:
    return isinstance(value, kind) and all(each(v) for v in (value.values() if isinstance(value, dict) else value))


def _has(value: Any, **parts: Check) -> bool:
    return isinstance(value, dict) and all(name in value and check(value[name]) for name, check in parts.items())


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_tensors(value: Any) -> bool:
    return _all(value, dict, lambda t: isinstance(t, Tensor)) and all(isinstance(name, str) for name in value)


def _is_run(value: Any) -> bool:
    parts: dict[str, Check] = {"task_index": is_count, "step": is_count, "params": _is_tensors, "state": _is_tensors}
    of_pair: dict[str, Check] = {"accumulated": _is_tensors, "scales": _is_tensors}
    of_pair |= {"total_steps": is_count, "repeat": is_count}
    parts |= of_pair if isinstance(value, dict) and "accumulated" in value else {}
    parts |= {"halvings": is_count} if "accumulated" in parts and "halvings" in value else {}  # of later versions
    return _has(value, **parts) and set(value) == set(parts)


def _is_beginning(value: Any) -> bool:
    """Settings of a group of parameters, in plain values alone, which are compared."""
    return _has(value, tensors=is_count) and all(map(_is_text, value)) and all(map(_is_plain, value.values()))


def _is_group(value: Any) -> bool:
    return _has(value, params=lambda p: _all(p, list, is_count), lr=is_number)


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _is_optimizer(value: Any) -> bool:
    groups: Check = lambda g: _all(g, list, _is_group) and bool(g)  # noqa: E731
    states: Check = lambda s: _all(s, dict, lambda own: isinstance(own, dict)) and all(map(is_count, s))  # noqa: E731
    return _has(value, state=states, param_groups=groups)


SCHEMA: dict[str, tuple[Check, str]] = {
    "state_dict": (_is_tensors, "tensors by name"),
    "epoch": (is_count, "a whole number from 0"),
    "global_step": (is_count, "a whole number from 0"),
    "pytorch-lightning_version": (
        lambda v: _is_text(v) and _VERSION.fullmatch(v[:99]) is not None and len(v) < 99,
        "a version number",
    ),
    "loops": (lambda v: _all(v, dict, lambda loop: isinstance(loop, dict)), "the Trainer's progress"),
    "callbacks": (lambda v: isinstance(v, dict) and all(map(_is_text, v)), "states by callback"),
    "optimizer_states": (lambda v: _all(v, list, _is_optimizer) and len(v) == 1, "the state of one optimizer"),
    "lr_schedulers": (lambda v: _all(v, list, lambda s: isinstance(s, dict)) and len(v) < 2, "at most one schedule"),
    FORMAT_KEY: (is_count, "a whole number"),
    CONFIG_KEY: (_is_text, "the configuration as YAML"),
    MADE_BY_KEY: (
        lambda v: _has(v, optimizer=_is_text, schedule=_is_text) and _all(v.get("settings", []), list, _is_beginning),
        "the names of an optimizer and of a schedule, and settings",
    ),
    SKIPPED_KEY: (
        lambda v: _has(v, total=is_count, in_a_row=is_count) and len(v) == 2,
        "two counts of outer steps",
    ),
    TRAINING_WEIGHTS_KEY: (_is_tensors, "tensors by name"),
    RUNS_KEY: (lambda v: _all(v, list, _is_run), "inner runs"),
}
"""Of each key, which may be absent: what its value must be, and that in words."""


def validate_content(path: Path | UPath, content: dict[str, Any]) -> None:
    """Refuse content of which a part is not what the format says; what callbacks add under other keys is their own.

    Raises:
        UserError: names the first part that is wrong.
    """
    do = "Give another, such as checkpoints/best.ckpt or last.ckpt of the same run"
    if not _is_bounded(content):
        raise UserError(
            f"the checkpoint {path} cannot be used: it is nested deeper than {DEEPEST} levels, has more than"
            f" {MOST_VALUES} values, or tensors that are not plain ones. {do}"
        )
    newest = content.get(FORMAT_KEY, FORMAT)
    if is_count(newest) and newest > FORMAT:
        raise UserError(
            f"the checkpoint {path} has the format {newest}, and this version of metasgd reads up to {FORMAT}: use"
            " the version that wrote it, or a newer one"
        )
    for key, (check, words) in SCHEMA.items():
        if key in content and not check(content[key]):
            raise UserError(f"the checkpoint {path} cannot be used: its {key} is not {words}. {do}")


def upgraded(content: dict[str, Any]) -> dict[str, Any]:
    """Content of any earlier format in the present one.

    Before format 1, which is the first with a number, a checkpoint might lack the counts of skipped steps and the inner
    runs under way: there were none.
    """
    return {SKIPPED_KEY: {"total": 0, "in_a_row": 0}, RUNS_KEY: [], **content, FORMAT_KEY: FORMAT}


def _is_bounded(content: Any) -> bool:
    """Whether it is a tree of a size that can be walked; what is there several times counts as often."""
    left, waiting = MOST_VALUES, [(content, 0)]
    while waiting:
        value, depth = waiting.pop()
        left -= 1
        if depth > DEEPEST or left < 0:
            return False
        if isinstance(value, Tensor):
            if value.layout is not torch.strided or value.is_quantized or value.device.type != "cpu":
                return False
            if value.numel() > MOST_STRETCHED and value.nbytes > value.untyped_storage().nbytes():
                return False
        elif isinstance(value, dict):
            waiting += [(below, depth + 1) for pair in value.items() for below in pair]
        elif isinstance(value, list | tuple | set):
            waiting += [(below, depth + 1) for below in value]
    return True
