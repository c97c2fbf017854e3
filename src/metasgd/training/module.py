"""MetaSGDModule: owns the network and its learned optimizer, and meta-trains them together."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any, Literal

from lightning.pytorch.callbacks import Callback
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from metasgd.episode import Episode
from metasgd.errors import UserError, arguments_of, at_argument
from metasgd.meta.engines import EngineName, attach_gradient
from metasgd.meta.estimators import EstimatorName
from metasgd.meta.meta_gradient import MetaGradient
from metasgd.meta.model import MetaModel
from metasgd.meta.objectives import LossName, Objective
from metasgd.meta.passes import meta_gradients
from metasgd.meta.persistent_evolution import PersistentEvolution
from metasgd.nn.networks import class_agnostic_names, prototype_head
from metasgd.nn.validation import validate_ways
from metasgd.rules.base import CHOSEN, UpdateRule
from metasgd.runs.checkpoint_schema import CONFIG_KEY, RUNS_KEY, SKIPPED_KEY
from metasgd.runtime.allocator import keep_freed_memory
from metasgd.training.cached_features import CachedFeatures
from metasgd.training.callbacks.evaluation_weights import EvaluationWeights, KeepCount
from metasgd.training.datamodule import EpisodicDataModule
from metasgd.training.device_steps import fused
from metasgd.training.evaluated_module import EvaluatedModule
from metasgd.training.outer import OuterProblem
from metasgd.training.rehearsal import monitored_by, step_schedule
from metasgd.training.resuming import with_fixed_layout
from metasgd.training.skipped_steps import READ_EVERY, SkippedSteps
from metasgd.training.trainer_limits import validate_trainer
from metasgd.training.written_config import config_text

OF_MODEL = arguments_of(MetaModel)


class MetaSGDModule(EvaluatedModule):
    """Meta-trains a network θ together with the update rule φ that adapts it to a task.

    Each outer step adapts the network to B tasks on their support sets and moves (θ, φ) against the mean
    query loss of the adapted networks.

    Args:
        outer: what learns at an outer step, and by which optimizer.

    Example:
        >>> from metasgd import MLP, EpisodicDataModule, PerParameter
        >>> from metasgd.data import Sinusoid
        >>> learner = MetaSGDModule(MLP(), PerParameter(0.01), loss="mse")
        >>> tasks = EpisodicDataModule(Sinusoid(), n_way=1, k_shot=5, meta_batch_size=4)
        >>> Trainer(max_steps=1000).fit(learner, tasks)  # doctest: +SKIP
    """

    # It inherits from MetaModel, so that checkpoints have the same keys for both (network.*, update_rule.*), and the
    # command line documents MetaModel's arguments from there.
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
        loss: LossName | Objective = "cross_entropy",
        outer: OuterProblem = OuterProblem(),  # noqa: B008 - frozen
        engine: EngineName = "auto",
        estimator: EstimatorName | PersistentEvolution = "unrolled",
        proximal: float = 0.0,
        solver_steps: int = 10,
    ) -> None:
        self.options = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        if segments > 1 and outer.freeze_network is not True:
            raise UserError(
                f"model.segments is {segments}: long runs train all of a network from random weights, so only the"
                " update rule can be meta-trained. Set model.outer.freeze_network to true"
            )
        if outer.zero_steps_until and prototype_head(network) is None:
            raise UserError(
                f"model.outer.zero_steps_until is {outer.zero_steps_until}, but without an inner step only a prototype"
                " head tells classes apart. Use 0, or a network with --model.network.init_args.head prototype"
            )
        if estimator != "unrolled" and (outer.first_order_until or outer.multi_step_until):
            raise UserError(
                f"model.estimator is {getattr(estimator, 'name', estimator)}, which does not go back through the inner"
                " steps: leave model.outer.first_order_until and model.outer.multi_step_until at 0"
            )
        if isinstance(loss, Objective) and loss.passes > 1 and outer.multi_step_until:
            raise UserError(
                f"model.loss.init_args.passes is {loss.passes}, but the trajectories are of the last inner step: leave"
                " model.outer.multi_step_until at 0, or use 1"
            )
        with _naming_options():
            super().__init__(**{name: value for name, value in self.options.items() if name != "outer"})
        self.automatic_optimization = False
        self.outer = outer
        self.skipped = SkippedSteps()
        # what all rows have in common does not show in it: a gradient of rounding errors, of which Adam makes steps
        unseen = class_agnostic_names(network) if loss == "cross_entropy" else frozenset[str]()
        self.learned = outer.learned(network) - unseen
        self.config = replace(self.config, unlearned=frozenset(self.config.theta) - self.learned)
        self.features: CachedFeatures | None = None

    def configure_callbacks(self) -> list[Callback]:
        validate_trainer(self.trainer)  # before any callback is asked
        return [EvaluationWeights(), KeepCount()]

    def logged_names(self) -> list[str]:
        """What a fit logs, for callbacks and schedules that wait for one of these."""
        of_objective = [f"{split}/{name}" for split in ("val", "train") for name in ("loss", self.objective.metric)]
        of_rule = [f"{name}/inner_step_{s}" for name in CHOSEN for s in range(self.inner_steps)]
        of_rates = ["rates/moved_share", "rates/negative_share", "rates/not_finite"]
        return [*of_objective, "outer/gradient_norm", "outer/skipped_steps", *of_rates, *of_rule]

    def configure_optimizers(self) -> Any:
        made = fused(self.outer.make_optimizer(self.network, self.update_rule, self.learned), self.device)
        optimizer = with_fixed_layout(made)
        scheduler = self.outer.make_scheduler(optimizer, self.trainer.max_steps)
        if isinstance(scheduler, ReduceLROnPlateau):
            monitored_by(scheduler, self.objective)
        return optimizer if scheduler is None else ([optimizer], [scheduler])

    def as_inputs(self, tasks: Episode) -> Episode:
        with _naming_options():
            return super().as_inputs(tasks)

    @contextmanager
    def ready(self, tasks: Episode) -> Iterator[Episode]:
        plain = super().ready
        with plain(tasks) if self.features is None else self.features.ready(tasks, plain) as inputs:
            yield inputs

    def setup(self, stage: str) -> None:
        data = self.trainer.datamodule  # type: ignore[attr-defined] # set by the Trainer's methods
        if stage == "fit" and isinstance(data, EpisodicDataModule):
            with at_argument("data", {"train_shapes"}):
                validate_ways(self.network, [shape.n_way for shape in data.train_shapes])
        wanted = isinstance(data, EpisodicDataModule) and data.cache_features
        self.features = CachedFeatures(self, data.samplers.values(), data.cache_dir) if wanted else None
        with _naming_options():
            how = self.prepare(self.device, self.trainer.world_size)
            self.prepare_others()
        if self.device.type == "cpu":
            keep_freed_memory()
        if stage == "fit":
            rank_zero_info(how)

    def training_step(self, batch: Episode, batch_idx: int) -> None:
        first_order = self.first_order or batch_idx < self.outer.first_order_until
        steps = 0 if batch_idx < self.outer.zero_steps_until else self.inner_steps
        weights = self.outer.query_weights(batch_idx, steps) if steps else None
        seen: list[tuple[MetaGradient, Tensor, Tensor]] = []
        for gradient in meta_gradients(self, batch, first_order, weights, steps):
            loss = attach_gradient(gradient.query_losses.mean(), gradient, self.config.theta, self.config.phi)
            # a loss that is not finite makes the gradient so, on all processes, which is where it is looked at
            self.manual_backward(loss * (1 + 0 * loss.detach()))
            seen.append((gradient, loss, self._outer_step(batch_idx, last=len(seen) + 1 == self.objective.passes)))
        gradient, loss, norm = seen[0]  # of the weights that the step began with
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined] # set by Trainer.__init__
        logged = bool(every) and not (batch_idx + 1) % every
        if logged:  # Lightning's bookkeeping of what it will not log takes longer than a step on curves
            self._log_step(batch, gradient, loss, norm)
        # last, as it may wait for the device, which works meanwhile
        self._validate_skipped(batch, seen[-1][0], batch_idx, at_once=logged or not (batch_idx + 1) % READ_EVERY)

    def _log_step(self, batch: Episode, gradient: MetaGradient, loss: Tensor, norm: Tensor) -> None:
        accuracy_or_error = self.objective.measure(gradient.outputs, batch.query_y, gradient.query_losses).mean()
        figures: dict[str, Any] = {"train/loss": loss.detach(), f"train/{self.objective.metric}": accuracy_or_error}
        self.log_dict(figures, prog_bar=True, sync_dist=True, batch_size=batch.n_tasks)
        of_rule: dict[str, Any] = {
            f"{name}/inner_step_{s}": chosen[:, s].mean()
            for name, chosen in gradient.chosen.items()
            for s in range(chosen.shape[1])
        }
        self.log_dict(of_rule, sync_dist=True, batch_size=batch.n_tasks)
        of_outer: dict[str, Any] = {"outer/gradient_norm": norm, "outer/skipped_steps": self.skipped.count()}
        self.log_dict(of_outer, batch_size=batch.n_tasks)

    def _outer_step(self, step: int, last: bool) -> Tensor:
        """Step the outer optimizer, unless the gradient is not finite, which is counted; return its norm.

        Args:
            step: the outer step.
            last: whether it is the step's last pass, which Lightning counts.
        """
        optimizer = self.optimizers()
        assert isinstance(optimizer, LightningOptimizer)
        for name, p in self.config.theta.items():
            if name not in self.learned:
                p.grad = None
        if step < self.outer.zero_steps_until and self.config.prototypes is not None:
            # without an inner step the outputs know s·t alone: t learns, and the inner loss stays as soft as it is
            self.config.theta[f"{self.config.prototypes[0]}.log_scale"].grad = None
        for module, learns in zip((self.network, self.update_rule), self.outer.learns(step), strict=True):
            if not learns:
                module.zero_grad()  # to None, which optimizers pass over
        norm = self.outer.clip([*self.config.theta.values(), *self.config.phi.values()])
        taken = self.skipped.step(optimizer if last else optimizer.optimizer, norm)
        self.update_rule.project()
        optimizer.zero_grad()
        if not last:
            return norm
        self.outer_steps += taken
        scheduler = self.lr_schedulers()
        if isinstance(scheduler, LRScheduler) and not isinstance(scheduler, ReduceLROnPlateau):
            step_schedule(scheduler)
        return norm

    def _validate_skipped(self, batch: Episode, gradient: MetaGradient, step: int, at_once: bool) -> None:
        """Raise a ``UserError`` where too many outer steps in a row were left out."""
        in_a_row = self.skipped.most_in_a_row(at_once)
        if in_a_row >= self.outer.max_skipped_steps:
            culprits = batch.task_index[~gradient.query_losses.isfinite()].tolist()
            rates = self.update_rule.learned_rates().values()
            raise UserError(self.skipped.explain(step, batch.task_index.tolist(), culprits, rates, in_a_row))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if CONFIG_KEY not in checkpoint:  # the command line has its own
            data = None if self._trainer is None else getattr(self._trainer, "datamodule", None)
            checkpoint[CONFIG_KEY] = config_text(self.options, data)
        checkpoint[SKIPPED_KEY] = self.skipped.state_dict()
        checkpoint[RUNS_KEY] = self.unroll.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self._trainer is not None:
            # before the weights are loaded, which would lose their last digits in parameters of lower precision
            self.trainer.precision_plugin.convert_module(self)
        self.skipped = SkippedSteps(**checkpoint.get(SKIPPED_KEY, {}))
        self.unroll.load_state_dict(checkpoint.get(RUNS_KEY, []))

    def announce(self, what: str) -> None:
        rank_zero_info(what)


def _naming_options() -> AbstractContextManager[None]:
    return at_argument("model", OF_MODEL)
