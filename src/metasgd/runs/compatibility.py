"""Whether a checkpoint is of the run that is configured: where shapes do not tell, and where weights say nothing."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from upath import UPath

from metasgd.errors import UserError
from metasgd.rules.base import UpdateRule
from metasgd.runs.checkpoint_schema import CONFIG_KEY
from metasgd.runs.differences import differences
from metasgd.runs.moved_classes import with_present_paths
from metasgd.runs.plain_yaml import load_yaml

Options = Mapping[str, Any]

FREE_OF_NETWORK = ("n_way", "weights", "prototype_bias")
"""May differ where the shapes agree: a class-agnostic head meets any number of ways, what a backbone's training
started from may lie elsewhere now, and the same weights serve prototypes by distance and by dot product."""
FREE_OF_RUN = (
    *(
        "root",
        "cache_dir",
        "weights",
        "download",
        "num_workers",
        "on_device",
        "cache_features",
        "engine",
        "recompute",
    ),  # where and how the same is done
    *(
        "val_tasks",
        "test_tasks",
        "eval_n_query",
        "eval_views",
        "eval_rotations",
        "eval_inner_steps",
    ),  # of the evaluation alone
)
"""Options that a run may resume with others of."""
PROTOCOL = ("inner_steps", "eval_inner_steps", "transductive", "adapts", "proximal", "loss")
"""Options of the model that the same weights can be evaluated under in more ways than one."""
BY_HAND = "made_by_hand"
"""Beside a class path: why a training from Python could not write what the object was made with."""
SPLIT = "data.source.split"
OTHER_MODEL = "is of another model than the configured one"
SAME_MODEL = "Use the config.yaml of the run that wrote it, with the same --model.network and --model.update_rule"


def validate_same_network(path: Path | UPath, content: Options, network: Options, free: tuple[str, ...]) -> None:
    """Refuse a checkpoint of another network, but for the options in ``free``.

    Raises:
        UserError: names what differs.
    """
    saved = saved_config(path, content)
    if saved is not None:
        differing = [*_differences("model.network", saved["model"]["network"], network, (*FREE_OF_NETWORK, *free))]
        _refuse(path, OTHER_MODEL, differing, SAME_MODEL)


def validate_same_model(path: Path | UPath, content: Options, rule: UpdateRule, network: Options) -> None:
    """Refuse a checkpoint whose weights would be read as something else than they were trained as.

    Args:
        path: of the checkpoint.
        content: of the checkpoint; without a configuration in it, nothing is known and nothing refused.
        rule: the configured update rule.
        network: the configured network: ``class_path`` and ``init_args``.

    Raises:
        UserError: names what differs.
    """
    saved = saved_config(path, content)
    if saved is None:
        return
    model = saved["model"]
    options = {name: value for name, value in rule.identity().items() if name in rule.fixed}
    fixed = {"class_path": f"{type(rule).__module__}.{type(rule).__qualname__}", "init_args": options}
    differing = [*_differences("model.update_rule", model["update_rule"], fixed)]
    differing += _differences("model.network", model["network"], network, FREE_OF_NETWORK)
    _refuse(path, OTHER_MODEL, differing, SAME_MODEL)


def validate_same_run(path: Path | UPath, content: Options, configured: Options) -> None:
    """Refuse to resume training from a checkpoint under other options of the model or the data.

    Args:
        path: of the checkpoint.
        content: of the checkpoint; without a configuration in it, nothing is refused.
        configured: the whole configuration.

    Raises:
        UserError: names what differs.
    """
    saved = saved_config(path, content)
    if saved is None:
        return
    differing = [
        said for part in ("model", "data") for said in _differences(part, saved[part], configured[part], FREE_OF_RUN)
    ]
    _refuse(
        path,
        "is of a run with other options",
        differing,
        "Resume with the config.yaml of that run, or start a new one from its weights with --init_from",
    )


def other_protocol(path: Path | UPath, content: Options, model: Options) -> list[str]:
    """How the configured ``model`` evaluates otherwise than the run of a checkpoint did, in words."""
    saved = saved_config(path, content)
    if saved is None:
        return []
    known = {name: saved["model"][name] for name in PROTOCOL if name in saved["model"]}
    return [*_differences("model", known, {name: model[name] for name in PROTOCOL if name in model})]


def other_split(path: Path | UPath, content: Options, data: Options) -> str | None:
    """That the source of the configured ``data`` splits its classes otherwise than a checkpoint's training did.

    Classes to test on may then be classes of that training, which their names do not show for data sets that come in
    one piece.

    Returns:
        in words, what differs.
    """
    saved = saved_config(path, content)
    found = () if saved is None else differences("data.source", saved["data"].get("source"), data.get("source"))
    return next((f"its {d.option} is {d.saved}, the configured one {d.own}" for d in found if d.option == SPLIT), None)


def saved_config(path: Path | UPath, content: Options) -> dict[str, Any] | None:
    """The configuration in a checkpoint, if it has one.

    Raises:
        UserError: it cannot be read.
    """
    if CONFIG_KEY not in content:
        return None
    try:
        config = with_present_paths(load_yaml(content[CONFIG_KEY]))
        complete = all(isinstance(config[part], dict) for part in ("model", "data"))
        complete = complete and all("class_path" in config["model"][part] for part in ("network", "update_rule"))
    except (yaml.YAMLError, KeyError, TypeError, AttributeError):
        complete = False
    if not complete:
        raise UserError(
            f"the configuration in the checkpoint {path} cannot be read, so its model cannot be built. Give another,"
            " such as checkpoints/best.ckpt or last.ckpt of the same run."
        )
    return dict(config)


def config_of_run(path: Path | UPath, content: Options) -> dict[str, Any]:
    """The configuration in a checkpoint that must have one.

    Raises:
        UserError: it has none, or one that cannot be read.
    """
    config = saved_config(path, content)
    if config is None:
        raise UserError(f"{path} does not carry the configuration of its run. Give a checkpoint that fit wrote.")
    return config


def validate_written(path: Path | UPath, name: str, options: Any) -> None:
    """Refuse a part of a configuration that a training from Python could not write.

    Raises:
        UserError: says how to pass it.
    """
    if isinstance(options, Mapping) and BY_HAND in options:
        raise UserError(
            f"the checkpoint {path} does not say how its {name} was made: {options[BY_HAND]}. Make it as for the"
            f" training and pass it: metasgd.load(path, {name}=...). A class of metasgd, or of your own that derives"
            " from metasgd.Configurable, in a module that can be imported, is made again by itself"
        )


def _differences(name: str, saved: Any, own: Any, free: tuple[str, ...] = ()) -> Iterator[str]:
    """In words."""
    for differing in differences(name, saved, own, free):
        yield f"its {differing.option} is {differing.saved}, the configured one {differing.own}"


def _refuse(path: Path | UPath, what: str, differing: list[str], do: str) -> None:
    if differing:
        raise UserError(f"the checkpoint {path} {what}: {'; '.join(differing)}. {do}")
