"""A run's loggers: any of Lightning's, several, or none. The run's folder, checkpoints and results do not need one."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from upath import UPath

from metasgd.construction import named
from metasgd.runs.folders import Run
from metasgd.runs.storage import expanded
from metasgd.training.run_logger import RunLogger

CSV_FILE = "metrics.csv"
"""What CSVLogger writes."""
IN_FOLDER = (TensorBoardLogger, CSVLogger)
"""These write to ``save_dir/name/version_K``, which is then the run's folder."""


FOR_FIGURES = (TensorBoardLogger, WandbLogger, MLFlowLogger)
"""These take figures."""
DEFAULT_SAVE_DIR, DEFAULT_NAME = "runs", "metasgd"


@dataclass(frozen=True)
class Place:
    """Where a run is to be: ``save_dir/name/version_K``.

    Attributes:
        save_dir: the folder of all runs.
        name: of the run.
        version: K, by default the next.
        option: that names ``save_dir``.
    """

    save_dir: str
    name: str
    version: int | str | None
    option: str

    @classmethod
    def of(cls, loggers: Sequence[Any], run: Mapping[str, Any], default_root_dir: str | None) -> "Place":
        """As the options ``run`` say, otherwise as the first logger that has a folder does.

        Args:
            loggers: the configuration of each: ``class_path`` and ``init_args``.
            run: save_dir, name and version; none of them need be given.
            default_root_dir: the Trainer's.
        """
        found = cls(default_root_dir or DEFAULT_SAVE_DIR, DEFAULT_NAME, None, "run.save_dir")
        for logger in loggers:
            made = named(logger["class_path"])
            if isinstance(made, type) and issubclass(made, IN_FOLDER):
                options = logger["init_args"]
                found = cls(
                    str(options["save_dir"]),
                    options.get("name") or DEFAULT_NAME,
                    options.get("version"),
                    "trainer.logger.init_args.save_dir",
                )
                break
        given = {name: value for name, value in run.items() if value is not None}
        found = replace(found, **given, **({"option": "run.save_dir"} if "save_dir" in given else {}))
        return replace(found, name=expanded(found.name, "run.name"))


class CheckpointsInRun(Callback):
    """Has every ModelCheckpoint that names no folder of its own save into the run's."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        place = str(folder_of(trainer).resolve() / "checkpoints")  # the same wherever a run is resumed from
        for callback in trainer.callbacks:  # type: ignore[attr-defined] # set by Trainer.__init__
            if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
                callback.dirpath = place


class RunTrainer(Trainer):
    """A Trainer whose ``log_dir`` is the run's folder, whatever its loggers."""

    run_folder: str | None = None

    @property
    def log_dir(self) -> str | None:
        """The run's folder, as the first process has it; all processes must ask."""
        folder: str | None = self.run_folder or super().log_dir
        return self.strategy.broadcast(folder)


def folder_of(trainer: Trainer) -> UPath:
    """The run's folder; all processes must ask, since the first one tells the others."""
    folder = trainer.log_dir
    assert folder is not None
    return UPath(folder)


def as_list(value: Any) -> list[Any]:
    """One or several, or none, as the Trainer takes loggers, callbacks and plugins."""
    if value is None or isinstance(value, bool):
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def loggers_of(
    made: Any, settings: Sequence[Mapping[str, Any]], run: Run, resumed_at: int | None
) -> list[Logger] | bool:
    """The loggers of a run: TensorBoard by default, False for none.

    Args:
        made: as the Trainer takes them.
        settings: the ``class_path`` and ``init_args`` of each.
        run: that is logged.
        resumed_at: the outer step from which on it is trained again; see ``in_run``.
    """
    if made is False:
        return False
    if made is None or made is True:
        return [in_run(TensorBoardLogger(str(run.save_dir)), {}, run, resumed_at)]
    options = ({**logger["init_args"], **logger.get("dict_kwargs", {})} for logger in settings)
    return [in_run(*pair, run, resumed_at) for pair in zip(as_list(made), options, strict=True)]


def in_run(logger: Logger, options: Mapping[str, Any], run: Run, resumed_at: int | None) -> Logger:
    """The logger as configured, in the run's folder if it is one that has a folder.

    Args:
        logger: as it was made.
        options: what it was made with.
        run: the run that it logs.
        resumed_at: the outer step from which on the run is trained again, whose later curves go; None: all stay.
    """
    if not isinstance(logger, IN_FOLDER):
        return logger
    place = {"save_dir": str(run.save_dir), "name": run.name, "version": run.version}
    if isinstance(logger, TensorBoardLogger):
        later = {"default_hp_metric": False, "purge_step": resumed_at}
        kind = RunLogger if type(logger) is TensorBoardLogger else type(logger)
        return kind(**{**options, **place, **later})
    return type(logger)(**{**options, **place})


def keep_earlier(loggers: Sequence[Logger], run: Run, resumed_at: int | None) -> None:
    """Let a CSVLogger resume with the run's rows: Lightning's writer begins by deleting them.

    Args:
        loggers: of the run.
        run: that is resumed or evaluated.
        resumed_at: the outer step from which on it is trained again, whose later rows go; None: all stay.
    """
    file = run.folder / CSV_FILE
    for logger in loggers:
        if isinstance(logger, CSVLogger) and file.is_file():
            rows = csv.DictReader(io.StringIO(file.read_text()))
            earlier = [
                {name: value for name, value in row.items() if value}
                for row in rows
                if resumed_at is None or int(row["step"]) < resumed_at
            ]
            logger.experiment.metrics = earlier
            logger.save()


def takes_figures(trainer: Trainer) -> bool:
    """Whether there is a logger to draw for."""
    return any(isinstance(logger, FOR_FIGURES) for logger in trainer.loggers)


def log_figure(trainer: Trainer, name: str, figure: Figure) -> None:
    """Show a figure in every logger that takes figures, at the last step taken, at which Lightning logs."""
    step = trainer.global_step - 1
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_figure(_named(logger, name), figure, step, close=False)
        elif isinstance(logger, WandbLogger):
            logger.log_image(name, [_drawn(figure)], step=step)
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_image(logger.run_id, _drawn(figure), f"{_named(logger, name)}/step_{step}.png")


def log_histogram(trainer: Trainer, name: str, values: Tensor, bins: list[float]) -> None:
    """Show how values are spread, in TensorBoard alone."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_histogram(_named(logger, name), values, trainer.global_step - 1, bins=bins)


def log_text(trainer: Trainer, name: str, text: str) -> None:
    """Show a text as it is, in TensorBoard alone; others keep the settings."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            indented = "".join(f"    {line}\n" for line in text.splitlines())  # Markdown's for what is shown as it is
            logger.experiment.add_text(_named(logger, name), indented, trainer.global_step)


def log_settings(trainer: Trainer, settings: dict[str, Any], reached: dict[str, float]) -> None:
    """Give every logger the run's settings and what it reached, after the last step: a resumed run takes it back."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(settings, reached, trainer.global_step)
        else:
            logger.log_hyperparams(settings)
            logger.log_metrics(reached, trainer.global_step)


def flush(loggers: Sequence[Logger]) -> None:
    """Write what is logged so far, such that no kill after this takes points from the curves."""
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.flush()
        elif isinstance(logger, CSVLogger):
            logger.save()


def _named(logger: Logger, name: str) -> str:
    prefix = getattr(logger, "_prefix", "")
    return f"{prefix}-{name}" if prefix else name


def _drawn(figure: Figure) -> Image.Image:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    return Image.fromarray(np.asarray(canvas.buffer_rgba()))  # type: ignore[no-untyped-call]
