"""MetaSGDModule: owns the network and its learned optimizer, and meta-trains them together."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

import torch
from lightning import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from metasgd.adaptation import Judgement, Learner, judge, merge_judgements
from metasgd.allocator import keep_freed_memory
from metasgd.engines import EngineName, choose_engine, deliver
from metasgd.episode import Episode
from metasgd.errors import UserError, refuse
from metasgd.long_runs import LongRuns
from metasgd.meta_gradient import MetaGradient, merge_gradients, meta_gradient
from metasgd.metrics import TaskFigures
from metasgd.networks import adapted_names, refuse_running_statistics, refuse_unfit_tasks
from metasgd.objectives import OBJECTIVES, LossName
from metasgd.outer import OuterProblem, SkippedSteps
from metasgd.results import TestResult
from metasgd.update_rules import Params, UpdateRule

SKIPPED_KEY = "metasgd_skipped"
"""A checkpoint holds under this key how many outer steps were skipped."""
RUNS_KEY = "metasgd_long_runs"
"""A checkpoint holds the inner runs under way under this key."""


class MetaSGDModule(LightningModule):
    """Meta-trains a network θ together with the update rule φ that adapts it to a task.

    Each outer step adapts the network to B tasks on their support sets and moves (θ, φ) against the mean
    query loss of the adapted networks.

    Args:
        network: f, any module whose ``forward`` takes a batch.
        update_rule: u, the learned optimizer.
        inner_steps: S, inner steps of an adaptation in training.
        eval_inner_steps: S in validation and test, if another.
        segments: outer steps that an inner run lasts. Above 1, the update rule alone is learned, on long runs from
            random weights, of which each outer step sees ``inner_steps`` (see ``metasgd.long_runs``).
        minibatch_shots: with several segments, examples of each class that an inner step sees.
        first_order: leave the Hessian term out of the meta-gradient.
        recompute: run each inner step again in the backward pass instead of keeping its graph: slower, in
            memory that hardly grows with S. ``auto`` does so where S supports are larger than the query set.
        adapts: what the inner steps change: ``all``, ``head`` (ANIL), ``body`` (BOIL), or patterns of
            parameter names such as ``body.3.*``.
        transductive: let BatchNorm normalise the query set by its own statistics, as in the published
            protocols; otherwise by the support set's.
        loss: ``cross_entropy`` for classes, ``mse`` for regression.
        outer: what learns at an outer step, and by which optimizer.
        engine: how tasks are dealt out; ``auto`` chooses by device and network.
    """

    outer_steps: Tensor
    """How many outer steps made these weights; kept in checkpoints."""

    def __init__(
        self,
        network: nn.Module,
        update_rule: UpdateRule,
        inner_steps: int = 1,
        eval_inner_steps: int | None = None,
        segments: int = 1,
        minibatch_shots: int = 1,
        first_order: bool = False,
        recompute: bool | Literal["auto"] = "auto",
        adapts: str | list[str] = "all",
        transductive: bool = True,
        loss: LossName = "cross_entropy",
        outer: OuterProblem = OuterProblem(),  # noqa: B008 - frozen
        engine: EngineName = "auto",
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        refuse(
            [
                f"model.{option} is {value}: at least {least} is needed"
                for option, value, least in (
                    ("inner_steps", inner_steps, 1),
                    ("eval_inner_steps", eval_inner_steps, 0),
                    ("segments", segments, 1),
                    ("minibatch_shots", minibatch_shots, 1),
                )
                if value is not None and value < least
            ]
        )
        if segments > 1 and not (outer.freeze_network and adapts == "all"):
            raise UserError(
                f"model.segments is {segments}: long runs train all of a network from random weights, so only the"
                " update rule can be meta-trained. Set model.outer.freeze_network to true and model.adapts to all"
            )
        refuse_running_statistics(network)
        self.network = network
        self.update_rule = update_rule
        self.inner_steps = inner_steps
        self.eval_inner_steps = inner_steps * segments if eval_inner_steps is None else eval_inner_steps
        self.long_runs = LongRuns(minibatch_shots) if segments > 1 else None
        self.first_order, self.recompute = first_order, recompute
        self.objective = OBJECTIVES[loss]
        self.outer = outer
        self.register_buffer("outer_steps", torch.zeros((), dtype=torch.int64))
        self.skipped = SkippedSteps()
        self.engine_name = engine
        self.engine, self.engine_reason = choose_engine(engine, network, torch.device("cpu"))
        self.fits = False

        adapted = adapted_names(network, adapts)
        self.update_rule.bind({n: p for n, p in network.named_parameters() if n in adapted}, inner_steps * segments)
        if outer.freeze_network:
            network.requires_grad_(False)
        self.learner = Learner(network, self.update_rule, self.objective.loss, adapted, transductive)
        self.val_figures = TaskFigures()
        self.test_figures = TaskFigures()

    def configure_optimizers(self) -> Any:
        optimizer = self.outer.make_optimizer(self.network, self.update_rule)
        scheduler = self.outer.make_scheduler(optimizer, self.trainer.max_steps)
        return optimizer if scheduler is None else ([optimizer], [scheduler])

    def setup(self, stage: str) -> None:
        self.engine, self.engine_reason = choose_engine(self.engine_name, self.network, self.device)
        if self.long_runs is not None and self.trainer.world_size > 1:
            raise UserError(
                f"trainer.devices make {self.trainer.world_size} processes, but the long inner runs (model.segments"
                " above 1) are those of one process: set trainer.devices to 1"
            )
        if self.device.type == "cpu":
            keep_freed_memory()
        if stage == "fit":
            rank_zero_info(f"engine: {self.engine_reason}")

    def training_step(self, batch: Episode, batch_idx: int) -> None:
        gradient = self._meta_gradient(batch, step=batch_idx)
        loss = deliver(gradient.query_losses.mean(), gradient, *self._parameters_by_name())
        # a loss that is not finite makes the gradient so, on all processes, which is where it is looked at
        self.manual_backward(loss * (1 + 0 * loss.detach()))
        norm = self._outer_step(batch, gradient, step=batch_idx)
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined] # set by Trainer.__init__
        if not every or (batch_idx + 1) % every:
            return  # Lightning's bookkeeping of what it will not log takes longer than a step on curves
        accuracy_or_error = self.objective.measure(gradient.outputs, batch.query_y).mean()
        figures: dict[str, Any] = {"train/loss": loss.detach(), f"train/{self.objective.metric}": accuracy_or_error}
        self.log_dict(figures, prog_bar=True, sync_dist=True, batch_size=batch.n_tasks)
        of_rule: dict[str, Any] = {
            f"{name}/inner_step_{s}": chosen[:, s].mean()
            for name, chosen in gradient.chosen.items()
            for s in range(self.inner_steps)
        }
        self.log_dict(of_rule, sync_dist=True, batch_size=batch.n_tasks)
        of_outer: dict[str, Any] = {"outer/gradient_norm": norm, "outer/skipped_steps": float(self.skipped.total)}
        self.log_dict(of_outer, batch_size=batch.n_tasks)

    def _outer_step(self, batch: Episode, gradient: MetaGradient, step: int) -> Tensor:
        """Step the outer optimizer, unless the gradient is not finite, which is counted; return its norm."""
        optimizer = self.optimizers()
        assert isinstance(optimizer, LightningOptimizer)
        for module, learns in zip((self.network, self.update_rule), self.outer.learns(step), strict=True):
            if not learns:
                module.zero_grad()  # to None, which optimizers pass over
        norm = torch.nn.utils.clip_grad_norm_(self.parameters(), self.outer.gradient_clip_norm or math.inf)
        finite = bool(norm.isfinite())
        self.skipped.count(not finite)
        if self.skipped.in_a_row >= self.outer.max_skipped_steps:
            raise UserError(self._not_finite(batch, gradient, step))
        if not finite:
            optimizer.zero_grad()
        optimizer.step()
        self.update_rule.project()
        self.outer_steps += finite
        optimizer.zero_grad()
        scheduler = self.lr_schedulers()
        if isinstance(scheduler, LRScheduler):
            scheduler.step()
        return norm

    def _not_finite(self, batch: Episode, gradient: MetaGradient, step: int) -> str:
        culprits = batch.task_index[~gradient.query_losses.isfinite()].tolist()
        tasks = f"the loss of the tasks {culprits}" if culprits else "no task's loss, but their gradient"
        rates = [rate.detach().flatten() for rate in self.update_rule.learned_rates().values()]
        spread = f", with rates from {torch.cat(rates).min():g} to {torch.cat(rates).max():g}" if rates else ""
        return (
            f"the outer gradient was not finite {self.skipped.in_a_row} times in a row, which is"
            f" model.outer.max_skipped_steps; last at outer step {step} on the tasks {batch.task_index[0]} to"
            f" {batch.task_index[-1]}: not finite was {tasks}{spread}. Lower the outer learning rate or the start of"
            " the inner rates, or set model.outer.gradient_clip_norm; the last good checkpoint is kept."
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[SKIPPED_KEY] = asdict(self.skipped)
        if self.long_runs is not None:
            checkpoint[RUNS_KEY] = self.long_runs.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.skipped = SkippedSteps(**checkpoint.get(SKIPPED_KEY, {}))
        if self.long_runs is not None:
            self.long_runs.load_state_dict(checkpoint[RUNS_KEY])

    def validation_step(self, batch: Episode, batch_idx: int) -> None:  # noqa: ARG002
        self.val_figures.update(batch.task_index, self._figures(batch, after=[self.eval_inner_steps]))

    def on_validation_epoch_start(self) -> None:
        self.val_figures.reset()

    def on_validation_epoch_end(self) -> None:
        loss, measure = self.val_figures.compute().mean.float()
        self.log_dict({"val/loss": loss, f"val/{self.objective.metric}": measure}, prog_bar=True)

    def test_step(self, batch: Episode, batch_idx: int) -> None:  # noqa: ARG002
        self.test_figures.update(batch.task_index, self._figures(batch, after=range(self.eval_inner_steps + 1)))

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
        found = self.test_figures.compute()
        (loss, measure), (loss_ci95, measure_ci95) = found.mean.chunk(2), found.ci95.chunk(2)
        return TestResult(
            loss=loss.tolist(),
            loss_ci95=loss_ci95.tolist(),
            metric=measure.tolist(),
            metric_ci95=measure_ci95.tolist(),
            by_task=found.by_task[:, -1].tolist(),
        )

    def predict_step(self, batch: Episode, batch_idx: int) -> Tensor:  # noqa: ARG002
        """Class probabilities (or regression outputs) on the query sets, ``[B, X, outputs]``."""
        outputs = self.judge(batch, after=[self.eval_inner_steps]).outputs[:, 0]
        return outputs.softmax(dim=-1) if self.objective.metric == "accuracy" else outputs

    def _figures(self, batch: Episode, after: Sequence[int]) -> Tensor:
        """``[B, 2J]``: query losses after each of J numbers of inner steps, then the metric after each."""
        judgement = self.judge(batch, after)
        measured = [self.objective.measure(judgement.outputs[:, j], batch.query_y) for j in range(len(after))]
        return torch.cat([judgement.query_losses, torch.stack(measured, dim=1)], dim=1)

    def judge(self, batch: Episode, after: Sequence[int]) -> Judgement:
        """Adapt to each task of ``batch`` and judge after each number of inner steps in ``after``.

        Raises:
            UserError: under ``torch.inference_mode``, where no inner gradient can be had.
        """
        if torch.is_inference_mode_enabled():
            raise UserError(
                "trainer.inference_mode is true, but adapting to a task needs gradients in evaluation too:"
                " set trainer.inference_mode to false"
            )
        if self.long_runs is not None:
            return self.long_runs.judge(self.learner, self.as_inputs(batch), self.eval_inner_steps, after)
        theta, _ = self._parameters_by_name()

        def on(learner: Learner, tasks: Episode) -> Judgement:
            return judge(learner, theta, tasks, self.eval_inner_steps, after)

        return self.engine.run(on, merge_judgements, self.learner, self.as_inputs(batch))

    def _meta_gradient(self, batch: Episode, step: int) -> MetaGradient:
        theta, _ = self._parameters_by_name()
        first_order = self.first_order or step < self.outer.first_order_until
        if self.long_runs is not None:
            return self.long_runs.meta_gradient(self.learner, self.as_inputs(batch), self.inner_steps, first_order)
        weights = self.outer.query_weights(step, self.inner_steps)
        recompute = self.recompute
        if recompute == "auto":
            recompute = self.inner_steps * batch.support_y.shape[1] > batch.query_y.shape[1]

        def on(learner: Learner, tasks: Episode) -> MetaGradient:
            return meta_gradient(learner, theta, tasks, self.inner_steps, first_order, recompute, weights)

        return self.engine.run(on, merge_gradients, self.learner, self.as_inputs(batch))

    def _parameters_by_name(self) -> tuple[Params, Params]:
        return dict(self.network.named_parameters()), dict(self.update_rule.named_parameters())

    def as_inputs(self, batch: Episode) -> Episode:
        """Images arrive as uint8 and become numbers from 0 to 1 here, on the device."""
        if batch.support_x.dtype == torch.uint8:
            dtype = next(self.network.parameters()).dtype
            batch = batch._replace(support_x=batch.support_x.to(dtype) / 255, query_x=batch.query_x.to(dtype) / 255)
        if not self.fits:
            refuse_unfit_tasks(self.network, batch.support_x[0], batch.n_way)
            if self.long_runs is not None:
                self.long_runs.refuse_unfit_tasks(batch)
            self.fits = True
        return batch
