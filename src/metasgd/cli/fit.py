"""``metasgd.fit``: a training from Python, as the command line makes it."""

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metasgd.cli.app import MetaSGDCLI
from metasgd.errors import UserError
from metasgd.runs.shipped import config_named
from metasgd.training.callbacks.progress import quieten


@dataclass(frozen=True)
class FitResult:
    """What a training came to.

    Attributes:
        folder: of the run.
        checkpoint: its best checkpoint, for ``metasgd.load``; without a validation its last.
        metric: what was best there, as ``val/accuracy``.
        best: the value of that metric, in [0, 1] for an accuracy; None without a validation.
    """

    folder: Path
    checkpoint: Path
    metric: str
    best: float | None


def fit(config: str | Path, **overrides: Any) -> FitResult:
    """Meta-train as ``metasgd fit CONFIG --OPTION VALUE …`` does; offered as ``metasgd.fit``.

    It trains in this process, on one device; signals are the caller's.

    Args:
        config: the name of a configuration that comes with metasgd, or the path of one.
        overrides: any of its options by its path, as ``**{"model.inner_steps": 3}``; a class by its name or as
            ``{"class_path": …, "init_args": …}``.

    Returns:
        The best value, its checkpoint and the run's folder.

    Raises:
        UserError: there is no such configuration, or an option cannot be what it is.

    Example:
        >>> import metasgd
        >>> result = metasgd.fit("sinusoid", **{"trainer.max_steps": 1000, "model.inner_steps": 2})  # doctest: +SKIP
        >>> learner = metasgd.load(result.checkpoint)  # doctest: +SKIP
    """
    options = [f"--{name}={_written(value)}" for name, value in overrides.items()]
    with warnings.catch_warnings():
        quieten()
        try:
            done = MetaSGDCLI(["fit", f"--config={config_named(str(config), 'config')}", *options])
        except SystemExit as leaving:
            if leaving.code != 2:  # a signal
                raise
            raise UserError(
                f"config is {config}, which the command line cannot take with {' '.join(options) or 'no options'}: the"
                " reason is printed above"
            ) from leaving
    folder, best = Path(str(done.run.folder)), done.best.best_model_score
    checkpoint = folder / "checkpoints" / ("last.ckpt" if best is None else "best.ckpt")
    return FitResult(folder, checkpoint, str(done.best.monitor), None if best is None else float(best))


def _written(value: Any) -> str:
    """As on the command line; a float to its last digit."""
    if isinstance(value, str | Path):
        return str(value)
    return json.dumps(dict(value) if isinstance(value, Mapping) else value)
