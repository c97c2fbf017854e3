"""How a meta-model validates, tests and predicts: alone, or together with others."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from metasgd.data.rng import Split
from metasgd.episode import Episode
from metasgd.meta.ensemble import evaluate_together
from metasgd.meta.evaluate import Evaluation
from metasgd.meta.model import MetaModel
from metasgd.reporting.metrics import TaskMetrics
from metasgd.reporting.results import TestResult
from metasgd.training.datamodule import EpisodicDataModule
from metasgd.training.rehearsal import monitored_by


class EvaluatedModule(MetaModel, LightningModule):
    """A meta-model evaluated on validation and test tasks.

    Attributes:
        others: models whose predictions are averaged with its own.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.others: tuple[MetaModel, ...] = ()
        self.val_figures, self.test_figures = TaskMetrics(), TaskMetrics()

    def prepare_others(self) -> None:
        """Bring the other models to the device and the precision of this one."""
        device = self.trainer.strategy.root_device
        for model in self.others:
            self.trainer.precision_plugin.convert_module(model.to(device))
            model.prepare(device, self.trainer.world_size)

    def validation_step(self, batch: Episode, batch_idx: int) -> None:
        first = 0 if self.trainer.state.fn == "validate" else self.eval_steps  # a table has all of them
        self.val_figures.update(batch.task_index, self._figures(batch, "val", after=range(first, self.eval_steps + 1)))

    def on_validation_epoch_start(self) -> None:
        self.val_figures.reset()

    def on_validation_epoch_end(self) -> None:
        loss, measure = self.val_figures.compute().mean.float().chunk(2)
        found = {"val/loss": loss[-1], f"val/{self.objective.metric}": measure[-1]}
        self.log_dict(found, prog_bar=True)
        scheduler = (
            self.lr_schedulers() if self.trainer.state.fn == "fit" and not self.trainer.sanity_checking else None
        )
        if isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step(float(found[monitored_by(scheduler, self.objective)]))

    def test_step(self, batch: Episode, batch_idx: int) -> None:
        self.test_figures.update(batch.task_index, self._figures(batch, "test", after=range(self.eval_steps + 1)))

    def on_test_epoch_start(self) -> None:
        self.test_figures.reset()

    def on_test_epoch_end(self) -> None:
        metric = f"test/{self.objective.metric}"
        result = self.test_result()
        self.log_dict(
            {"test/loss": result.loss[-1], metric: result.metric[-1], f"{metric}_ci95": result.metric_ci95[-1]}
        )

    def test_result(self) -> TestResult:
        """What the test found, over the tasks of all processes."""
        return TestResult.of(self.test_figures.compute())

    def predict_step(self, batch: Episode, batch_idx: int) -> Tensor:
        """Class probabilities (or regression outputs) on the query sets, ``[B, X, outputs]``."""
        outputs = self._evaluated(batch, "test", after=[self.eval_steps]).outputs[:, 0]
        return outputs.softmax(dim=-1) if self.objective.metric == "accuracy" else outputs

    def _figures(self, batch: Episode, split: Split, after: Sequence[int]) -> Tensor:
        """``[B, 2J]``: query losses after each of J numbers of inner steps, then the metric after each."""
        evaluation = self._evaluated(batch, split, after)
        return torch.cat([evaluation.query_losses, evaluation.measured(self.objective, batch)], dim=1)

    @property
    def eval_steps(self) -> int:
        """Inner steps of an evaluation: the most that one of the models takes."""
        return max(model.eval_inner_steps for model in (self, *self.others))

    def _evaluated(self, batch: Episode, split: Split, after: Sequence[int]) -> Evaluation:
        data = self.trainer.datamodule  # type: ignore[attr-defined] # set by the Trainer's methods
        views = data.views(batch, split) if isinstance(data, EpisodicDataModule) else [batch]
        return evaluate_together((self, *self.others), views, after)
