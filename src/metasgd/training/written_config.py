"""The configuration in the checkpoints of a training from Python, by which ``metasgd.load`` builds the model again."""

from collections.abc import Mapping
from typing import Any

import yaml

from metasgd.construction import NotWritableError, configuration_of
from metasgd.runs.compatibility import BY_HAND


def config_text(model: Mapping[str, Any], data: Any) -> str:
    """As a run of the command line would have it, in YAML; what no configuration can name is marked, or left out.

    Args:
        model: the arguments of the module.
        data: what supplied the tasks; arguments are known of an ``EpisodicDataModule`` alone.
    """
    parts = {"model": model, "data": getattr(data, "options", None) or {}}
    plain = {part: _written(options) for part, options in parts.items()}
    text: str = yaml.safe_dump(plain, sort_keys=False)
    return text


def _written(options: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in options.items():
        try:
            found[name] = configuration_of(value)
        except NotWritableError as error:
            kind = type(value)
            found[name] = {"class_path": f"{kind.__module__}.{kind.__qualname__}", BY_HAND: str(error)}
    return found
