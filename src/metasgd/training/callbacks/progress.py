"""What a run shows on the terminal while it works."""

import logging
import threading
import time
import warnings
from functools import partial
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from rich.progress import BarColumn, ProgressColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

from metasgd.runtime.exit_codes import ending_of


class ProgressBar(RichProgressBar):
    """Lightning's bar, in the terms of meta-training: it counts outer steps and has no epochs.

    It is one line, also of 80 columns: the bar takes what the others leave, and of the metrics the training's is shown.
    It moves ten times a second at most: to look for what it should show takes longer than it takes to see it.

    Args:
        doing: what the training is called there.
    """

    PAUSE = 0.1  # seconds

    def __init__(self, doing: str = "Meta-training") -> None:
        super().__init__()
        self.doing = doing
        self.moved_at = 0.0
        self.metric = ""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.monotonic()
        if now - self.moved_at > self.PAUSE or batch_idx + 1 == self.total_train_batches:
            self.moved_at = now
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def configure_columns(self, trainer: Trainer) -> list[Any]:
        _, _, *counts = super().configure_columns(trainer)
        columns: list[ProgressColumn] = [_Description(self.doing), *counts, _Metric(self)]
        for column in columns:
            column.get_table_column = partial(Column, no_wrap=True)  # type: ignore[method-assign]
        style = self.theme.progress_bar
        return [
            columns[0],
            BarColumn(None, complete_style=style, finished_style=style, pulse_style=style),
            *columns[1:],
        ]

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """None for Lightning's own column, which would wrap; the last one of the training for ours."""
        found = {n: value for n, value in super().get_metrics(trainer, pl_module).items() if n.startswith("train/")}
        if found:
            name, value = list(found.items())[-1]
            self.metric = f"{name.removeprefix('train/')} {value:#.3g}"
        return {}


class _Description(TextColumn):
    def __init__(self, doing: str) -> None:
        super().__init__("")
        self.doing = doing

    def render(self, task: Task) -> Text:
        return Text(self.doing if task.description.startswith("Epoch") else task.description)


class _Metric(TextColumn):
    """The training's metric, beside the bar of the training."""

    def __init__(self, bar: ProgressBar) -> None:
        super().__init__("")
        self.bar = bar

    def render(self, task: Task) -> Text:
        return Text(self.bar.metric if task.description.startswith("Epoch") else "", style=self.bar.theme.metrics)


def quieten() -> None:
    """Keep off the terminal what is no concern of the user's."""
    # advertisements, which Lightning sends at every start
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(lambda r: "Tip:" not in r.getMessage())
    # of class paths that the parser is wary of, and that are refused
    warnings.filterwarnings("ignore", message="(?s).*(import path denylist|JSONARGPARSE_DEPRECATION_WARNINGS)")
    # Lightning's use of torch and torch's of its own parts
    warnings.filterwarnings("ignore", message=".*LeafSpec.*", module="lightning.*")
    # figures of the evaluation are those of all processes before they are logged
    warnings.filterwarnings("ignore", message=".*recommended to use .self.log.'(val|test)/.*", module="lightning.*")
    # a backbone's BatchNorm with frozen statistics
    warnings.filterwarnings("ignore", message=".*in eval mode at the start of training.*", module="lightning.*")
    # an evaluation, which needs no callback that saved the checkpoint
    warnings.filterwarnings("ignore", message=".*callbacks used to create the checkpoint.*", module="lightning.*")
    warnings.filterwarnings("ignore", message=".*WeightAveraging state cannot be restored.*", module="lightning.*")
    # a run that resumes in its own folder
    warnings.filterwarnings("ignore", message=".*exists and is not empty.*", module="lightning.*")
    # the data module draws in the main process where that is fastest, and sets the loaders' lengths itself
    warnings.filterwarnings("ignore", message=".*does not have many workers.*", module="lightning.*")
    # a run of a few steps, which makes no curve
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*", module="lightning.*")
    # a checkpoint is of the weights after its outer step
    warnings.filterwarnings("ignore", message=".*pre-optimization state.*", module="lightning.*")
    threading.excepthook = _hook


def _hook(raised: threading.ExceptHookArgs) -> None:
    """TensorBoard's thread raises what it meets in the main one as well, where the user sees it."""
    if ending_of(raised.exc_value) is None:
        threading.__excepthook__(raised)
