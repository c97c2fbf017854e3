"""A meta-trained learner out of a checkpoint alone."""

from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser
from upath import UPath

from metasgd.data.source import ClassSource, Source
from metasgd.errors import UserError
from metasgd.learner.meta_learner import MetaLearner
from metasgd.runs.folders import CONFIG_KEY, read_checkpoint, validate_shapes
from metasgd.runs.moved_classes import with_present_paths
from metasgd.training.module import MetaSGDModule


def load(path: str | Path | UPath) -> MetaLearner:
    """Build again what ``fit`` saved, from the configuration that the checkpoint carries.

    Of the classes that it names, only networks, update rules and outer optimizers are built.
    Offered as ``metasgd.load``.

    Raises:
        UserError: the file is no complete checkpoint of this program, or its model cannot be built here.
    """
    path = UPath(path)
    content = read_checkpoint(path)
    if CONFIG_KEY not in content:
        raise UserError(f"{path} does not carry the configuration of its run. Give a checkpoint that fit wrote.")
    config = with_present_paths(yaml.safe_load(content[CONFIG_KEY]))
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(MetaSGDModule, "model")
    try:
        module = parser.instantiate(parser.parse_object({"model": config["model"]})).model
    except (ArgumentError, KeyError, TypeError) as error:
        raise UserError(
            f"the model of the checkpoint {path} cannot be built: {str(error).splitlines()[0]}. Its own classes must be"
            " importable here, in the versions that it was trained with."
        ) from error
    validate_shapes(path, content, module)
    module.load_state_dict(content["state_dict"])
    return MetaLearner(module, config)


def load_source(config: dict[str, Any]) -> ClassSource | None:
    """The source of the classes that a run was trained on; None for a source of something else.

    Raises:
        UserError: it cannot be built here.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--source", type=Source)
    try:
        source = parser.instantiate(parser.parse_object({"source": config["data"]["source"]})).source
    except (ArgumentError, KeyError, TypeError) as error:
        raise UserError(
            f"the data source of the checkpoint cannot be built: {str(error).splitlines()[0]}. Its own classes must be"
            " importable here, in the versions that it was trained with."
        ) from error
    return source if isinstance(source, ClassSource) else None
