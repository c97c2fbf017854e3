"""The settings of a run that differ from the defaults."""

from collections.abc import Mapping
from inspect import signature
from typing import Any

from lightning import Trainer

from metasgd.cli.trainer_options import TRAINER_DEFAULTS
from metasgd.construction import named
from metasgd.runs.class_paths import PACKAGES
from metasgd.training.datamodule import EpisodicDataModule
from metasgd.training.module import MetaSGDModule
from metasgd.training.outer import OuterProblem

PARTS: dict[str, Any] = {"model": MetaSGDModule, "data": EpisodicDataModule, "trainer": Trainer}


def changed_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` without the options that stand at their defaults; classes stay, with what was given to them.

    Classes of other packages, whose import would run their code, keep all their options.

    Args:
        config: as in config.yaml.

    Example:
        >>> changed_settings({"data": {"n_way": 5, "k_shot": 3}, "seed_everything": 0})
        {'data': {'k_shot': 3}, 'seed_everything': 0}
    """
    return {
        name: _changed(value, PARTS[name], TRAINER_DEFAULTS if name == "trainer" else {}) if name in PARTS else value
        for name, value in config.items()
    }


def _changed(options: Any, of: Any, otherwise: Mapping[str, Any]) -> Any:
    if not isinstance(options, Mapping):
        return options
    defaults = {name: p.default for name, p in signature(of).parameters.items()} | dict(otherwise)
    found = {}
    for name, value in options.items():
        default = defaults.get(name, NotImplemented)
        value = _changed(value, OuterProblem, {}) if name == "outer" else _with_changed_arguments(value)
        if not _same(value, default) and value != {}:
            found[name] = value
    return found


def _same(value: Any, default: Any) -> bool:
    return bool(value == (list(default) if isinstance(default, tuple) else default))


def _with_changed_arguments(value: Any) -> Any:
    """Of a class and its arguments the arguments that differ."""
    if not isinstance(value, Mapping) or "class_path" not in value:
        return value
    path = str(value["class_path"])
    made = named(path) if path.partition(".")[0] in PACKAGES else None
    arguments = value.get("init_args") or {}
    return {**value, "init_args": _changed(arguments, made, {}) if isinstance(made, type) else arguments}
