"""Where the inner steps of an outer step start: from θ, each time anew, as Meta-SGD and MAML do."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from metasgd.episode import Episode
from metasgd.meta.capture import CAPTURES
from metasgd.meta.engine_check import able_engine
from metasgd.meta.engine_choice import choose_engine, one_by_one
from metasgd.meta.engines import EngineName
from metasgd.meta.estimators import Estimator
from metasgd.meta.evaluate import Evaluation, evaluate, merge_evaluations
from metasgd.meta.inner_loop import InnerLoopConfig
from metasgd.meta.meta_gradient import MetaGradient, last_alone, merge_gradients, meta_gradient


class Unroll(ABC):
    """The inner runs of a meta-batch's tasks, as the outer step sees them."""

    @abstractmethod
    def setup(self, network: nn.Module, device: torch.device, world_size: int) -> str:
        """Make ready for a device and a number of processes; a line that says how the runs are made there.

        Raises:
            UserError: they cannot be made there.
        """

    @abstractmethod
    def meta_gradient(
        self,
        config: InnerLoopConfig,
        tasks: Episode,
        inner_steps: int,
        first_order: bool,
        query_weights: Sequence[float] | None = None,
    ) -> MetaGradient:
        """The gradient of the outer loss after S more inner steps.

        Args:
            config: what adapts.
            tasks: the meta-batch, inputs as the network takes them.
            inner_steps: S.
            first_order: leave out the Hessian term.
            query_weights: ``w_1 … w_S`` of the multi-step loss (MAML++); by default only the last counts.
        """

    @abstractmethod
    def evaluate(self, config: InnerLoopConfig, tasks: Episode, inner_steps: int, after: Sequence[int]) -> Evaluation:
        """Whole runs, evaluated on the query sets after each number of inner steps in ``after`` (0 … S)."""

    @abstractmethod
    def validate_tasks(self, tasks: Episode) -> None:
        """Refuse tasks that the runs cannot be made of.

        Raises:
            UserError: says what does not fit.
        """

    @abstractmethod
    def adjust(self, config: InnerLoopConfig, tasks: Episode, first_order: bool) -> str | None:
        """Try the network on a small meta-batch, and make the runs in another way if it takes that; say which.

        Raises:
            UserError: the network cannot be meta-trained in any way.
        """

    @abstractmethod
    def state_dict(self) -> list[dict[str, Any]]:
        """What a checkpoint must hold of the runs under way."""

    @abstractmethod
    def load_state_dict(self, state: list[dict[str, Any]]) -> None:
        """Resume the runs of a checkpoint."""


class FullUnroll(Unroll):
    """Every run starts from θ and ends with its outer step, so tasks can be distributed at will.

    Args:
        network: f, by which ``auto`` chooses.
        engine: how tasks are distributed.
        recompute: run inner steps again in the reverse pass; ``auto`` where S supports are larger than the
            query set.
        records: whether the work may be recorded as a CUDA graph; not where the host has a part in it.
        estimator: how the outer gradient is found.
    """

    def __init__(
        self,
        network: nn.Module,
        engine: EngineName,
        recompute: bool | Literal["auto"],
        records: bool = True,
        estimator: Estimator = Estimator(),  # noqa: B008 - frozen
    ) -> None:
        self.estimator = estimator
        self.name, self.recompute, self.captures = engine, recompute, CAPTURES if records else {}
        self.engine, _ = choose_engine(engine, network, torch.device("cpu"))
        self.unable = False
        self._weights: Tensor | None = None

    def setup(self, network: nn.Module, device: torch.device, world_size: int) -> str:
        self.engine, reason = choose_engine(self.name, network, device, self.captures)
        if self.unable:
            self.engine, reason = one_by_one(self.engine), "loop, the only one that can run this network"
        return f"engine: {reason}"

    def meta_gradient(
        self,
        config: InnerLoopConfig,
        tasks: Episode,
        inner_steps: int,
        first_order: bool,
        query_weights: Sequence[float] | None = None,
    ) -> MetaGradient:
        theta = config.theta
        recompute = self.recompute
        if recompute == "auto":
            recompute = inner_steps * tasks.support_y.shape[1] > tasks.query_y.shape[1]

        weights: Sequence[float | Tensor] | None = query_weights
        counted = None
        if query_weights is not None and self.engine.records:
            weights = None
            if list(query_weights) != last_alone(inner_steps):
                counted = tuple(bool(w) for w in query_weights)
                weights = self._held(query_weights, tasks)

        def on(one: InnerLoopConfig, some: Episode) -> MetaGradient:
            if inner_steps and self.estimator.name != "unrolled":
                return self.estimator.gradient(one, theta, some, inner_steps)
            return meta_gradient(one, theta, some, inner_steps, first_order, recompute, weights)

        name = "meta_gradient", first_order, recompute, counted, self.estimator
        return self.engine.run(on, merge_gradients, config, tasks, inner_steps, name)

    def _held(self, query_weights: Sequence[float], tasks: Episode) -> list[float | Tensor]:
        """The weights in a tensor that stays: recorded work reads those of its step; what does not count is 0."""
        device = tasks.query_x.device
        if self._weights is None or self._weights.shape[0] != len(query_weights) or self._weights.device != device:
            self._weights = torch.empty(len(query_weights), dtype=torch.float64, device=device)
        self._weights.copy_(torch.tensor(query_weights, dtype=torch.float64), non_blocking=True)
        return [held if w else 0.0 for held, w in zip(self._weights, query_weights, strict=True)]

    def evaluate(self, config: InnerLoopConfig, tasks: Episode, inner_steps: int, after: Sequence[int]) -> Evaluation:
        theta = config.theta

        def on(one: InnerLoopConfig, some: Episode) -> Evaluation:
            return evaluate(one, theta, some, inner_steps, after)

        return self.engine.run(on, merge_evaluations, config, tasks, inner_steps, ("evaluate", tuple(after)))

    def validate_tasks(self, tasks: Episode) -> None:
        """Any task can start from θ."""

    def adjust(self, config: InnerLoopConfig, tasks: Episode, first_order: bool) -> str | None:
        once = first_order or self.estimator.name == "reptile"  # is how often the network is differentiated
        self.engine, reason = able_engine(self.engine, config, tasks, once)
        self.unable = self.unable or reason is not None
        return reason

    def state_dict(self) -> list[dict[str, Any]]:
        return []

    def load_state_dict(self, state: list[dict[str, Any]]) -> None:
        """No run outlives its outer step."""
