"""What a run on pictures shows in TensorBoard beside its curves: learned rates, tasks, inner steps, settings."""

import time
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn

from metasgd.reporting.figures import filters_figure, steps_figure, task_figure
from metasgd.training.callbacks.validation_figures import ValidationFigures, as_in_a_step
from metasgd.training.datamodule import EpisodicDataModule
from metasgd.training.loggers import log_figure, log_histogram, log_settings, log_text
from metasgd.training.module import MetaSGDModule

HISTOGRAM_BINS = 30
"""Of equal widths: those that are the default, a tenth of the rate wide, would show most tensors as one block."""


class ShowRates(ValidationFigures):
    """A histogram of each tensor's learned rates, and a picture of those of the first convolution."""

    commands = ("fit",)

    def draw(self, trainer: Trainer, module: MetaSGDModule, data: EpisodicDataModule) -> None:
        rates = {n: rate.detach().float().cpu() for n, rate in module.update_rule.learned_rates().items()}
        for name, rate in rates.items():
            if rate.isfinite().all():  # a histogram has no place for others, which rates/not_finite counts
                log_histogram(trainer, f"rates/{name}", rate.double(), bin_edges(rate))
        first = first_convolution(module.network)
        if first in rates and rates[first].ndim == 4:
            log_figure(trainer, "rates/first_convolution", filters_figure(rates[first], first))


class ShowTasks(ValidationFigures):
    """Some fixed validation tasks: what was shown, what was asked, what was answered; and accuracy by inner step."""

    commands = ("fit",)
    N_TASKS, EVALUATED = 3, 64

    def draw(self, trainer: Trainer, module: MetaSGDModule, data: EpisodicDataModule) -> None:
        metric = module.objective.metric
        measured: list[Tensor] = []
        for drawn in data.first_val_tasks(self.EVALUATED):
            start = len(measured) * data.meta_batch_size
            tasks = as_in_a_step(trainer, drawn)
            evaluation = module.evaluate(tasks, after=range(module.eval_inner_steps + 1))
            outputs = evaluation.outputs.float().cpu()
            measured.append(evaluation.measured(module.objective, tasks).float().cpu())
            if metric == "accuracy" and drawn.query_x.ndim == 5:
                for b in range(min(self.N_TASKS - start, drawn.n_tasks)):
                    figure = task_figure(drawn.tasks(b, b + 1), outputs[b, -1].argmax(dim=-1))
                    log_figure(trainer, f"tasks/{start + b}", figure)
        log_figure(trainer, f"inner_steps/{metric}", steps_figure(torch.cat(measured), metric))


class ShowSettings(Callback):
    """The run among others, by its settings and the best figure it reached on the validation tasks."""

    def __init__(self, settings: dict[str, Any], best: ModelCheckpoint, config: str) -> None:
        self.settings, self.best, self.config = settings, best, config

    @rank_zero_only
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        log_text(trainer, "config", self.config)

    @rank_zero_only
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, MetaSGDModule)
        best = self.best.best_model_score
        if best is not None:
            log_settings(trainer, self.settings, {f"best/{pl_module.objective.metric}": float(best)})


class ShowPace(Callback):
    """Logs the outer learning rates, and the seconds that an outer step takes, validations apart."""

    def __init__(self) -> None:
        self.began_at, self.steps = 0.0, 0
        self.rates: dict[str, float] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Look at the rates that this step is made with; a schedule changes them after it."""
        every_n = trainer.log_every_n_steps  # type: ignore[attr-defined] # set by Trainer.__init__
        if every_n and not (batch_idx + 1) % every_n:
            rates = [float(group["lr"]) for group in trainer.optimizers[0].param_groups]
            named = zip(("outer/learning_rate", "outer/rule_learning_rate"), rates, strict=False)
            self.rates = dict(named) if len({*rates}) > 1 else {"outer/learning_rate": rates[0]}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.steps += 1
        if self.rates:
            seconds = (time.monotonic() - self.began_at) / self.steps
            pl_module.log_dict({**self.rates, "outer/seconds_per_step": seconds}, batch_size=batch.n_tasks)
            self.rates = {}
            self._begin()

    def _begin(self) -> None:
        self.began_at, self.steps = time.monotonic(), 0


def bin_edges(values: Tensor) -> list[float]:
    """Of ``HISTOGRAM_BINS`` bins of equal widths, above zero also where all values are the same and large."""
    low, high = float(values.min()), float(values.max())
    if low == high:
        half = 0.5 * max(1.0, abs(low))
        low, high = low - half, high + half
    return torch.linspace(low, high, HISTOGRAM_BINS + 1, dtype=torch.float64).tolist()


def first_convolution(network: nn.Module) -> str | None:
    """The name of the first convolution's weights, if there is one."""
    names = (n for n, module in network.named_modules() if isinstance(module, nn.Conv2d))
    first = next(names, None)
    return None if first is None else f"{first}.weight".removeprefix(".")
