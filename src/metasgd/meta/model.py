"""MetaModel: a network, the update rule that adapts it, the objective and the settings of the inner loop."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from metasgd.episode import Episode, as_given, from_pixels
from metasgd.errors import UserError, raise_problems, too_large, too_small
from metasgd.meta.engines import EngineName
from metasgd.meta.estimators import Estimator, EstimatorName
from metasgd.meta.evaluate import Evaluation
from metasgd.meta.evolved_unroll import EvolvedUnroll
from metasgd.meta.frozen_layers import features_of, passed_over
from metasgd.meta.full_unroll import FullUnroll, Unroll
from metasgd.meta.inner_loop import InnerLoopConfig
from metasgd.meta.memory import large_rule
from metasgd.meta.meta_gradient import MetaGradient
from metasgd.meta.objectives import OBJECTIVES, LossName, Objective
from metasgd.meta.persistent_evolution import PersistentEvolution
from metasgd.meta.random_start import validate_long_runs
from metasgd.meta.trial import try_on
from metasgd.meta.truncated_unroll import TruncatedUnroll
from metasgd.nn.adapting import adapted_names
from metasgd.nn.behaviour import undisturbed
from metasgd.nn.calling import as_linked, links_of
from metasgd.nn.chance import Changing, without_chance
from metasgd.nn.networks import prototype_head
from metasgd.nn.prefix import Prefix
from metasgd.nn.validation import validate_classes_differ, validate_initialised, validate_tasks
from metasgd.rules.base import UpdateRule

log = logging.getLogger("metasgd")
MOST_STEPS = 1_000_000  # of an adaptation


class MetaModel(nn.Module):
    """A network f with weights θ, and the update rule u with parameters φ that adapts it to a task.

    ``θ_0 = θ``, then ``θ_{s+1} = u_φ(θ_s, ∇ L(f(θ_s; support)))`` for S inner steps; the outer loss is
    ``L(f(θ_S; query))``. A meta-model computes its exact gradient in (θ, φ) and evaluates adapted networks.

    Args:
        network: f, any module whose ``forward`` takes a batch.
        update_rule: u, the learned optimizer.
        inner_steps: S, inner steps of an adaptation in training.
        eval_inner_steps: S in validation and test, if another.
        segments: outer steps, of ``inner_steps`` each, that a run lasts; above 1 from random weights, for φ alone.
        minibatch_shots: examples of each class in an inner step of such a run.
        first_order: leave the Hessian term out of the meta-gradient.
        recompute: run inner steps again in the backward pass: slower, in memory that does not grow with S. ``auto``
            does so where S supports are larger than the query set.
        adapts: what the inner steps change, one or several of: ``all``, ``head`` (ANIL), ``body`` (BOIL), ``last:K``
            (blocks, of which the head is one), ``norms``, ``biases``, or patterns of parameter names such as
            ``body.3.*``.
        transductive: let BatchNorm normalise the query set by its own statistics, as published, or the support set's.
        loss: ``cross_entropy`` of classes, ``mse``, or an objective such as ``metasgd.rl.PolicyGradient``.
        estimator: of the outer gradient: ``unrolled``; ``reptile`` (θ − θ_S) and ``implicit`` (iMAML) for θ alone;
            ``pes``, or a ``PersistentEvolution``, for φ alone.
        proximal: λ of the inner steps' ``L(f(θ'; support)) + λ/2 ‖θ' − θ‖²``, which draws them back to θ.
        solver_steps: of conjugate gradient, for ``implicit``.
        engine: how tasks are distributed: one by one (``loop``), over CPU threads, stacked (``vmap``), or stacked and
            recorded as a CUDA graph (``graph``); ``auto`` chooses by device and network.

    Raises:
        UserError: an argument is out of its range, or the network cannot be adapted so.

    Example:
        >>> from metasgd.nn import MLP
        >>> from metasgd.rules import PerParameter
        >>> model = MetaModel(MLP(1, [8], 1), PerParameter(0.01), loss="mse")
        >>> x, classes, index = torch.rand(4, 5, 1), torch.zeros(4, 1, dtype=torch.int64), torch.arange(4)
        >>> tasks = Episode(x, x.sin(), x, x.sin(), classes, index)  # 4 tasks of 5 support and 5 query examples
        >>> gradient = model.meta_gradient(tasks)
        >>> gradient.query_losses.shape, gradient.theta["body.1.weight"].shape
        (torch.Size([4]), torch.Size([8, 1]))

    References:
        Li, Zhou, Chen, Li 2017: Meta-SGD: Learning to Learn Quickly for Few-Shot Learning, https://arxiv.org/abs/1707.09835
    """

    outer_steps: Tensor  # how many made these weights; saved in checkpoints

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
        engine: EngineName = "auto",
        estimator: EstimatorName | PersistentEvolution = "unrolled",
        proximal: float = 0.0,
        solver_steps: int = 10,
    ) -> None:
        super().__init__()
        self.objective = loss if isinstance(loss, Objective) else OBJECTIVES[loss]
        fresh = self.objective.experience is not as_given  # also without an inner step
        raise_problems(
            too_small(
                ("inner_steps", inner_steps, 0 if prototype_head(network) or fresh else 1),
                ("eval_inner_steps", eval_inner_steps, 0),
                *(("segments", segments, 1), ("minibatch_shots", minibatch_shots, 1)),
            )
            + too_large(("inner_steps", inner_steps, MOST_STEPS), ("eval_inner_steps", eval_inner_steps, MOST_STEPS))
        )
        if prototype_head(network) and (loss != "cross_entropy" or segments > 1):
            raise UserError(
                f"the network's head starts from the classes of a task, but loss is {loss} and segments is {segments}:"
                " use cross_entropy and 1, or another head"
            )
        if fresh and (segments > 1 or not transductive):
            raise UserError(
                f"loss is {type(loss).__name__}, whose examples are made as a task is learned, but segments is"
                f" {segments} and transductive is {transductive}: use 1 and true"
            )
        evolution = PersistentEvolution() if estimator == "pes" else estimator
        how = Estimator("pes" if isinstance(evolution, PersistentEvolution) else evolution, solver_steps)
        how.validate(proximal, first_order, segments, fresh, self.objective.passes)
        validate_initialised(network)
        if segments > 1:
            validate_long_runs(network, segments, adapts, transductive)
        self.network, self.update_rule = network, update_rule
        self.inner_steps = inner_steps
        self.eval_inner_steps = inner_steps * segments if eval_inner_steps is None else eval_inner_steps
        self.first_order = first_order
        self.register_buffer("outer_steps", torch.zeros((), dtype=torch.int64))
        if isinstance(evolution, PersistentEvolution):
            self.unroll: Unroll = EvolvedUnroll(minibatch_shots, evolution)
        elif segments > 1:
            self.unroll = TruncatedUnroll(minibatch_shots)
        else:
            self.unroll = FullUnroll(network, engine, recompute, not fresh, how)
        self.is_tried = False
        self.held = Changing()
        self.prefix: Prefix | None = None  # the frozen layers, which a task's examples pass once
        adapted = adapted_names(network, adapts)
        validate_classes_differ(network, adapted, adapts)
        self.update_rule.bind({n: p for n, p in network.named_parameters() if n in adapted}, inner_steps * segments)
        if isinstance(evolution, PersistentEvolution):
            evolution.validate(self.update_rule)
        if large := large_rule(self.update_rule):
            log.info(large)
        own = self.objective
        settings = adapted, transductive, proximal, True, own.experience, own.query_loss
        self.config = InnerLoopConfig(network, update_rule, own.loss, *settings)
        self._links = links_of(self)

    def prepare(self, device: torch.device, world_size: int) -> str:
        """Choose how tasks are distributed on this device; return it in a line.

        Args:
            device: where the parameters and the tasks will be.
            world_size: how many processes train together.

        Raises:
            UserError: the inner runs cannot be made there.
        """
        return self.unroll.setup(self.network, device, world_size)

    def meta_gradient(
        self,
        tasks: Episode,
        first_order: bool | None = None,
        query_weights: Sequence[float] | None = None,
        inner_steps: int | None = None,
    ) -> MetaGradient:
        """The outer loss of ``tasks`` and its gradient in θ and φ, summed over the tasks.

        Args:
            tasks: a meta-batch of B tasks; images may be uint8.
            first_order: leave out the Hessian term; by default as given to the constructor.
            query_weights: ``w_1 … w_S`` of the multi-step loss (MAML++); by default only the last counts.
            inner_steps: S; by default as given to the constructor.
        """
        steps = self.inner_steps if inner_steps is None else inner_steps
        first_order = self.first_order if first_order is None else first_order
        with self.ready(tasks) as inputs:
            return self.unroll.meta_gradient(self.config, inputs, steps, first_order, query_weights)

    def evaluate(self, tasks: Episode, after: Sequence[int], inner_steps: int | None = None) -> Evaluation:
        """Adapt to each task and evaluate on its query set after each number of inner steps in ``after``.

        Args:
            tasks: a meta-batch of B tasks; images may be uint8.
            after: numbers from 0 to S.
            inner_steps: S, by default that of evaluation.

        Works under ``torch.inference_mode`` too, which it leaves meanwhile: inner steps take gradients.
        """
        if torch.is_inference_mode_enabled():
            with torch.inference_mode(False):  # where a copy of a tensor is a plain one
                return self.evaluate(Episode(*(field.clone() for field in tasks)), after, inner_steps)
        with self.ready(tasks) as inputs:
            steps = self.eval_inner_steps if inner_steps is None else inner_steps
            return self.unroll.evaluate(self.config, inputs, steps, after)

    @contextmanager
    def ready(self, tasks: Episode) -> Iterator[Episode]:
        """The tasks as the network takes them within, which then gives the same for the same."""
        if not as_linked(self._links):  # what the settings found of the network and the rule is of others
            self._links, self.config = links_of(self), replace(self.config)
        inputs = self.as_inputs(tasks)
        with without_chance(self.network, self.held.names):
            features = features_of(self.prefix, inputs)
            with passed_over(self.prefix):
                yield features

    def as_inputs(self, tasks: Episode) -> Episode:
        """``tasks`` as the network takes them: uint8 images become numbers from 0 to 1, on their device.

        The network is tried on the first tasks that come here.

        Raises:
            UserError: it cannot be meta-trained on these tasks.
        """
        dtype = next(self.network.parameters()).dtype
        support_x, query_x = from_pixels(tasks.support_x, dtype), from_pixels(tasks.query_x, dtype)
        tasks = tasks._replace(support_x=support_x, query_x=query_x)
        if not self.is_tried:
            self.objective.validate_targets(tasks.support_y)
            with undisturbed(self.network, tasks.support_x.device):
                self._try(tasks)
            self.is_tried = True
        return tasks

    def announce(self, what: str) -> None:
        """Log a line about what the first batch has shown."""
        log.info(what)

    def _try(self, tasks: Episode) -> None:
        """Run the network on a small batch; switch off random modules and change the engine where needed."""
        with undisturbed(self.network, tasks.support_x.device):
            if self.config.experience is as_given:
                validate_tasks(self.network, tasks.support_x[0], tasks.support_y[0], tasks.n_way)
            self.unroll.validate_tasks(tasks)
        trial = try_on(self.config, self.unroll, tasks, self.held, self.first_order)
        self.held, self.prefix = trial.held, trial.prefix
        for line in trial.lines:
            self.announce(line)
