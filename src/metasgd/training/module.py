"""MetaSGDModule: owns the network and its learned optimizer, and meta-trains them together."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

import torch
from lightning import LightningModule
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from metasgd.episode import Episode
from metasgd.errors import UserError, raise_problems, too_large, too_small
from metasgd.meta.engines import EngineName, attach_gradient
from metasgd.meta.evaluate import Evaluation
from metasgd.meta.full_unroll import FullUnroll, Unroll
from metasgd.meta.inner_loop import InnerLoopConfig
from metasgd.meta.meta_gradient import MetaGradient
from metasgd.meta.objectives import OBJECTIVES, LossName
from metasgd.meta.truncated_unroll import TruncatedUnroll, validate_initialisable
from metasgd.nn.behaviour import listed, refuse_mixing, undisturbed
from metasgd.nn.chance import random_modules, without_chance
from metasgd.nn.networks import adapted_names, class_agnostic_names, prototype_head, uses_batch_statistics
from metasgd.nn.validation import refuse_lazy, validate_classes_differ, validate_tasks
from metasgd.reporting.metrics import TaskMetrics
from metasgd.reporting.results import TestResult
from metasgd.rules.gradient_descent import CHOSEN, UpdateRule
from metasgd.runs.checkpoint_schema import RUNS_KEY, SKIPPED_KEY
from metasgd.runtime.allocator import keep_freed_memory
from metasgd.training.callbacks.evaluation_weights import EvaluationWeights
from metasgd.training.outer import OuterProblem, SkippedSteps
from metasgd.training.rehearsal import monitored_by, step_schedule
from metasgd.training.resuming import with_layout_kept

MOST_STEPS = 1_000_000
"""Inner steps of an adaptation."""


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
            random weights, of which each outer step sees ``inner_steps`` (see ``metasgd.meta.truncated_unroll``).
        minibatch_shots: with several segments, examples of each class that an inner step sees.
        first_order: leave the Hessian term out of the meta-gradient.
        recompute: run inner steps again in the backward pass instead of keeping them: slower, in memory that
            does not grow with S. ``auto`` does so where S supports are larger than the query set.
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
        raise_problems(
            too_small(
                "model.",
                ("inner_steps", inner_steps, 0 if prototype_head(network) else 1),
                ("eval_inner_steps", eval_inner_steps, 0),
                ("segments", segments, 1),
                ("minibatch_shots", minibatch_shots, 1),
            )
            + too_large(
                "model.", ("inner_steps", inner_steps, MOST_STEPS), ("eval_inner_steps", eval_inner_steps, MOST_STEPS)
            )
        )
        if segments > 1 and not (outer.freeze_network and adapts == "all"):
            raise UserError(
                f"model.segments is {segments}: long runs train all of a network from random weights, so only the"
                " update rule can be meta-trained. Set model.outer.freeze_network to true and model.adapts to all"
            )
        if segments > 1 and not transductive and uses_batch_statistics(network):
            raise UserError(
                f"model.segments is {segments} and model.transductive is false, but in long runs BatchNorm normalises"
                " the query set by its own statistics. Set model.transductive to true"
            )
        if prototype_head(network) and (loss != "cross_entropy" or segments > 1):
            raise UserError(
                f"the network's head starts from the classes of a task, but loss is {loss} and segments is {segments}:"
                " use cross_entropy and 1, or another head"
            )
        refuse_lazy(network)
        if segments > 1:
            validate_initialisable(network)
        self.network = network
        self.update_rule = update_rule
        self.inner_steps = inner_steps
        self.eval_inner_steps = inner_steps * segments if eval_inner_steps is None else eval_inner_steps
        self.first_order = first_order
        self.objective = OBJECTIVES[loss]
        self.outer = outer
        self.register_buffer("outer_steps", torch.zeros((), dtype=torch.int64))
        self.skipped = SkippedSteps()
        self.runs: Unroll = TruncatedUnroll(minibatch_shots) if segments > 1 else FullUnroll(network, engine, recompute)
        self.fits = False
        self.silenced: tuple[str, ...] = ()

        adapted = adapted_names(network, adapts)
        validate_classes_differ(network, adapted, adapts)
        self.update_rule.bind({n: p for n, p in network.named_parameters() if n in adapted}, inner_steps * segments)
        # what all rows have in common does not show in it: a gradient of rounding errors, of which Adam makes steps
        unseen = class_agnostic_names(network) if loss == "cross_entropy" else frozenset[str]()
        self.learned = outer.learned(network) - unseen
        self.config = InnerLoopConfig(network, self.update_rule, self.objective.loss, adapted, transductive)
        self.val_figures, self.test_figures = TaskMetrics(), TaskMetrics()

    def configure_callbacks(self) -> list[Callback]:
        return [EvaluationWeights()]

    def logged_names(self) -> list[str]:
        """What a fit logs, for callbacks and schedules that wait for one of these."""
        of_objective = [f"{split}/{name}" for split in ("val", "train") for name in ("loss", self.objective.metric)]
        of_rule = [f"{name}/inner_step_{s}" for name in CHOSEN for s in range(self.inner_steps)]
        of_rates = ["rates/negative_share", "rates/not_finite"]
        return [*of_objective, "outer/gradient_norm", "outer/skipped_steps", *of_rates, *of_rule]

    def configure_optimizers(self) -> Any:
        optimizer = with_layout_kept(self.outer.make_optimizer(self.network, self.update_rule, self.learned))
        scheduler = self.outer.make_scheduler(optimizer, self.trainer.max_steps)
        if isinstance(scheduler, ReduceLROnPlateau):
            monitored_by(scheduler, self.objective)
        return optimizer if scheduler is None else ([optimizer], [scheduler])

    def setup(self, stage: str) -> None:
        how = self.runs.setup(self.network, self.device, self.trainer.world_size)
        if self.device.type == "cpu":
            keep_freed_memory()
        if stage == "fit":
            rank_zero_info(how)

    def training_step(self, batch: Episode, batch_idx: int) -> None:
        gradient = self._meta_gradient(batch, step=batch_idx)
        loss = attach_gradient(gradient.query_losses.mean(), gradient, self.config.theta, self.config.phi)
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
        for name, p in self.config.theta.items():
            if name not in self.learned:
                p.grad = None
        for module, learns in zip((self.network, self.update_rule), self.outer.learns(step), strict=True):
            if not learns:
                module.zero_grad()  # to None, which optimizers pass over
        norm = self.outer.clip([*self.config.theta.values(), *self.config.phi.values()])
        finite = bool(norm.isfinite())
        self.skipped.count(not finite)
        if self.skipped.in_a_row >= self.outer.max_skipped_steps:
            culprits = batch.task_index[~gradient.query_losses.isfinite()].tolist()
            rates = self.update_rule.learned_rates().values()
            raise UserError(self.skipped.explain(step, batch.task_index.tolist(), culprits, rates))
        if not finite:
            optimizer.zero_grad()
        optimizer.step()
        self.update_rule.project()
        self.outer_steps += finite
        optimizer.zero_grad()
        scheduler = self.lr_schedulers()
        if isinstance(scheduler, LRScheduler) and not isinstance(scheduler, ReduceLROnPlateau):
            step_schedule(scheduler)
        return norm

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[SKIPPED_KEY] = asdict(self.skipped)
        checkpoint[RUNS_KEY] = self.runs.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self._trainer is not None:
            # before the weights are loaded, which would lose their last digits in parameters of lower precision
            self.trainer.precision_plugin.convert_module(self)
        self.skipped = SkippedSteps(**checkpoint.get(SKIPPED_KEY, {}))
        self.runs.load_state_dict(checkpoint.get(RUNS_KEY, []))

    def validation_step(self, batch: Episode, batch_idx: int) -> None:  # noqa: ARG002
        self.val_figures.update(batch.task_index, self._figures(batch, after=[self.eval_inner_steps]))

    def on_validation_epoch_start(self) -> None:
        self.val_figures.reset()

    def on_validation_epoch_end(self) -> None:
        loss, measure = self.val_figures.compute().mean.float()
        found = {"val/loss": loss, f"val/{self.objective.metric}": measure}
        self.log_dict(found, prog_bar=True)
        scheduler = (
            self.lr_schedulers() if self.trainer.state.fn == "fit" and not self.trainer.sanity_checking else None
        )
        if isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step(float(found[monitored_by(scheduler, self.objective)]))

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
        return TestResult.of(self.test_figures.compute())

    def predict_step(self, batch: Episode, batch_idx: int) -> Tensor:  # noqa: ARG002
        """Class probabilities (or regression outputs) on the query sets, ``[B, X, outputs]``."""
        outputs = self.evaluate(batch, after=[self.eval_inner_steps]).outputs[:, 0]
        return outputs.softmax(dim=-1) if self.objective.metric == "accuracy" else outputs

    def _figures(self, batch: Episode, after: Sequence[int]) -> Tensor:
        """``[B, 2J]``: query losses after each of J numbers of inner steps, then the metric after each."""
        evaluation = self.evaluate(batch, after)
        measured = [self.objective.measure(evaluation.outputs[:, j], batch.query_y) for j in range(len(after))]
        return torch.cat([evaluation.query_losses, torch.stack(measured, dim=1)], dim=1)

    def evaluate(self, batch: Episode, after: Sequence[int], inner_steps: int | None = None) -> Evaluation:
        """Adapt to each task of ``batch`` and judge after each number of inner steps in ``after``.

        Args:
            batch: tasks.
            after: from 0 to S.
            inner_steps: S, by default that of evaluation.

        Raises:
            UserError: under ``torch.inference_mode``, where no inner gradient can be had.
        """
        if torch.is_inference_mode_enabled():
            raise UserError(
                "trainer.inference_mode is true, but adapting to a task needs gradients in evaluation too:"
                " set trainer.inference_mode to false"
            )
        steps = self.eval_inner_steps if inner_steps is None else inner_steps
        tasks = self.as_inputs(batch)
        with without_chance(self.network, self.silenced):
            return self.runs.evaluate(self.config, tasks, steps, after)

    def _meta_gradient(self, batch: Episode, step: int) -> MetaGradient:
        first_order = self.first_order or step < self.outer.first_order_until
        weights = self.outer.query_weights(step, self.inner_steps)
        tasks = self.as_inputs(batch)
        with without_chance(self.network, self.silenced):
            return self.runs.meta_gradient(self.config, tasks, self.inner_steps, first_order, weights)

    def as_inputs(self, batch: Episode) -> Episode:
        """Images arrive as uint8 and become numbers from 0 to 1 here, on the device."""
        if batch.support_x.dtype == torch.uint8:
            dtype = next(self.network.parameters()).dtype
            batch = batch._replace(support_x=batch.support_x.to(dtype) / 255, query_x=batch.query_x.to(dtype) / 255)
        if not self.fits:
            self.objective.validate_targets(batch.support_y)
            with undisturbed(self.network, batch.support_x.device):
                self._try_out(batch)
            self.fits = True
        return batch

    def _try_out(self, batch: Episode) -> None:
        """Run the network on a small batch, as all its runs will; adjust what can be adjusted, and say so once.

        Raises:
            UserError: it cannot be meta-trained, or not on these tasks.
        """
        validate_tasks(self.network, batch.support_x[0], batch.support_y[0], batch.n_way)
        self.runs.validate_tasks(batch)
        known = self.config.feed_forward is not None  # by its layers, of which none leaves anything to find out
        found = self.silenced if known else random_modules(self.network, batch.support_x[0])
        if found != self.silenced:
            rank_zero_info(f"switched off while adapting, being random: {listed(self.network, found)}")
            self.silenced = found
        with without_chance(self.network, found):
            if not self.config.transductive:
                by_support = isinstance(self.runs, FullUnroll)
                refuse_mixing(self.network, batch.support_x[0], batch.query_x[0], by_support)
            adjusted = None if known else self.runs.adjust(self.config, batch, self.first_order)
        if adjusted is not None:
            rank_zero_info(adjusted)
