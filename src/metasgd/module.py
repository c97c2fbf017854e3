"""MetaSGDModule: owns the network and its learned optimizer, and meta-trains them together."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from metasgd.adaptation import Judgement, Learner, MetaGradient, judge, merge_gradients, merge_judgements, meta_gradient
from metasgd.engines import EngineName, choose_engine, deliver
from metasgd.episode import Episode
from metasgd.errors import UserError, refuse
from metasgd.metrics import TaskMean
from metasgd.networks import refuse_running_statistics
from metasgd.objectives import OBJECTIVES, LossName
from metasgd.update_rules import Params, PerParameter, UpdateRule


class MetaSGDModule(LightningModule):
    """Meta-trains a network θ together with the update rule φ that adapts it to a task.

    Each outer step adapts the network to B tasks on their support sets and moves (θ, φ) against the mean
    query loss of the adapted networks, with a ``torch.optim`` optimizer.

    Args:
        network: f, any module whose ``forward`` takes a batch.
        update_rule: u, the learned optimizer.
        inner_steps: S, inner steps of an adaptation in training.
        eval_inner_steps: S in validation and test, if another.
        first_order: leave the Hessian term out of the meta-gradient.
        transductive: let BatchNorm normalise the query set by its own statistics, as in the published
            protocols; otherwise by the support set's.
        loss: ``cross_entropy`` for classes, ``mse`` for regression.
        optimizer: of the outer step, for θ and φ together.
        scheduler: of the outer step's learning rate, stepped once per outer step.
        gradient_clip_norm: the outer gradient's norm is cut to this; no cut by default.
        max_skipped_steps: stop after this many outer steps in a row were skipped for a non-finite gradient.
        engine: how tasks are dealt out; ``auto`` chooses by device and network.
    """

    def __init__(
        self,
        network: nn.Module,
        update_rule: UpdateRule | None = None,
        inner_steps: int = 1,
        eval_inner_steps: int | None = None,
        first_order: bool = False,
        transductive: bool = True,
        loss: LossName = "cross_entropy",
        optimizer: OptimizerCallable = partial(torch.optim.Adam, lr=1e-3),
        scheduler: LRSchedulerCallable | None = None,
        gradient_clip_norm: float | None = None,
        max_skipped_steps: int = 10,
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
                    ("max_skipped_steps", max_skipped_steps, 1),
                )
                if value is not None and value < least
            ]
        )
        refuse_running_statistics(network)
        self.network = network
        self.update_rule = PerParameter() if update_rule is None else update_rule
        self.inner_steps = inner_steps
        self.eval_inner_steps = inner_steps if eval_inner_steps is None else eval_inner_steps
        self.first_order = first_order
        self.objective = OBJECTIVES[loss]
        self.make_optimizer = optimizer
        self.make_scheduler = scheduler
        self.gradient_clip_norm = gradient_clip_norm
        self.max_skipped_steps = max_skipped_steps
        self.skipped_in_a_row = 0
        self.engine_name = engine
        self.engine, self.engine_reason = choose_engine(engine, network, torch.device("cpu"))

        adapted = dict(network.named_parameters())
        self.update_rule.bind(adapted, inner_steps)
        self.learner = Learner(
            network, self.update_rule, self.objective.loss, frozenset(adapted), transductive
        )
        self.val_loss, self.val_metric = TaskMean(), TaskMean()

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer([p for p in self.parameters() if p.requires_grad])
        if self.make_scheduler is None:
            return optimizer
        return [optimizer], [self.make_scheduler(optimizer)]
