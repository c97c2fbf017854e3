"""A meta-trained learner out of a checkpoint alone."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser
from upath import UPath

from metasgd.errors import UserError
from metasgd.module import MetaSGDModule
from metasgd.runs import CONFIG_KEY, read_checkpoint, refuse_misfit


@dataclass(frozen=True)
class Loaded:
    """What a checkpoint holds.

    Attributes:
        module: the network and its update rule, with their learned weights, on the CPU.
        config: the configuration of the run that wrote the checkpoint, as in its config.yaml.
    """

    module: MetaSGDModule
    config: dict[str, Any]


def load(path: str | Path | UPath) -> Loaded:
    """Build again what ``fit`` saved, from the configuration that the checkpoint carries.

    Of the classes that it names, only networks, update rules and outer optimizers are built.

    Raises:
        UserError: the file is no complete checkpoint of this program, or its model cannot be built here.
    """
    path = UPath(path)
    content = read_checkpoint(path)
    if CONFIG_KEY not in content:
        raise UserError(f"{path} does not carry the configuration of its run. Give a checkpoint that fit wrote.")
    config = yaml.safe_load(content[CONFIG_KEY])
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(MetaSGDModule, "model")
    try:
        module = parser.instantiate(parser.parse_object({"model": config["model"]})).model
    except (ArgumentError, KeyError, TypeError) as error:
        raise UserError(
            f"the model of the checkpoint {path} cannot be built: {str(error).splitlines()[0]}. Its own classes must be"
            " importable here, in the versions that it was trained with."
        ) from error
    refuse_misfit(path, content, module)
    module.load_state_dict(content["state_dict"])
    return Loaded(module, config)
