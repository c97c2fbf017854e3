"""How the tasks of a meta-batch are distributed: one by one, over CPU threads, or stacked under ``vmap``.

On a CUDA device ``graph.py`` records what one of these does.

Every engine gives the same result as the others up to the rounding of its sums, and the same bits each time.
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Literal, TypeVar

import torch
from torch import Tensor

from metasgd.episode import Episode
from metasgd.meta.inner_loop import InnerLoopConfig
from metasgd.meta.memory import bytes_of_a_task
from metasgd.meta.meta_gradient import MetaGradient
from metasgd.nn.calling import network_copy

Part = TypeVar("Part")
Work = Callable[[InnerLoopConfig, Episode], Part]
Merge = Callable[[Iterable[Part]], Part]

CPU_THREADS = torch.get_num_threads()
"""The threads that this process was given, before any engine sets its own threads to one."""
STACK_BYTES = 2**30
"""What a stack of tasks may take on a CPU."""

EngineName = Literal["auto", "loop", "threads", "vmap", "graph"]


class Engine(ABC):
    """Distributes the tasks of a meta-batch to a function of (configuration, tasks), and merges what it returns."""

    def __deepcopy__(self, memo: dict[int, object]) -> "Engine":
        """Itself: it has nothing of a network's, and the copy of a network, as for averages of weights, is not run."""
        return self

    records = False
    """Whether numbers that ``work`` reads are taken for good, so that what changes must be a tensor."""

    @abstractmethod
    def run(
        self,
        work: Work[Part],
        merge: Merge[Part],
        config: InnerLoopConfig,
        tasks: Episode,
        inner_steps: int,
        name: Hashable = None,
    ) -> Part:
        """``merge`` of what ``work`` gives for the tasks, of S inner steps, in their order.

        Args:
            work: to do for the tasks, all at once or a few at a time.
            merge: of the parts.
            config: what adapts.
            tasks: a meta-batch.
            inner_steps: S.
            name: the same for the same ``work`` with the same ``merge``; None where that is not known.
        """


class Loop(Engine):
    """One task after the other."""

    def run(
        self,
        work: Work[Part],
        merge: Merge[Part],
        config: InnerLoopConfig,
        tasks: Episode,
        inner_steps: int,
        name: Hashable = None,
    ) -> Part:
        return merge(work(config, one) for one in _in_pieces(tasks, 1))


class Vmap(Engine):
    """Stacks of tasks: best where a task is too small to fill the machine.

    Args:
        at_most: tasks in a stack.
        budget: bytes that a stack may take, by ``bytes_of_a_task``; by default 1 GiB, on a GPU half of what is free.
    """

    def __init__(self, at_most: int = 256, budget: int | None = None) -> None:
        self.at_most, self.budget = at_most, budget
        self._fitting: dict[tuple[int, ...], int] = {}

    def run(
        self,
        work: Work[Part],
        merge: Merge[Part],
        config: InnerLoopConfig,
        tasks: Episode,
        inner_steps: int,
        name: Hashable = None,
    ) -> Part:
        shape = (inner_steps, *tasks.support_x.shape[1:], *tasks.query_x.shape[1:])
        if shape not in self._fitting:
            budget = _budget_on(tasks.support_x.device) if self.budget is None else self.budget
            self._fitting[shape] = max(1, budget // bytes_of_a_task(config, tasks, inner_steps))
        return merge(work(config, stack) for stack in _in_pieces(tasks, min(self.at_most, self._fitting[shape])))


class Threads(Engine):
    """Tasks distributed over CPU threads as these become free; each has a copy of the network and one intra-op thread.

    Convolutions as small as a task's scale badly over intra-op threads, tasks scale well over these. What
    the tasks give is merged in their order, so that neither the distribution nor the number of threads shows.
    """

    def __init__(self, n_threads: int) -> None:
        self.n_threads = n_threads
        self._pool = ThreadPoolExecutor(
            n_threads, thread_name_prefix="tasks", initializer=torch.set_num_threads, initargs=(1,)
        )

    def __reduce__(self) -> tuple[type["Threads"], tuple[int]]:
        return Threads, (self.n_threads,)  # a copy has threads of its own

    def run(
        self,
        work: Work[Part],
        merge: Merge[Part],
        config: InnerLoopConfig,
        tasks: Episode,
        inner_steps: int,
        name: Hashable = None,
    ) -> Part:
        autocast = _autocast_here(tasks.query_x.device.type)
        # made anew each time: buffers, attributes and modes may have changed since, and parameters are shared
        own = threading.local()

        def on(one: Episode) -> Part:
            if not hasattr(own, "config"):
                own.config = replace(config, network=network_copy(config.network))
            with autocast():
                return work(own.config, one)

        with _one_thread_here():
            return merge(self._pool.map(on, _in_pieces(tasks, 1)))


def _budget_on(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else STACK_BYTES


@contextmanager
def _one_thread_here() -> Iterator[None]:
    """Keep the caller's own intra-op threads out of the way: after each use they spin for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _in_pieces(tasks: Episode, size: int) -> Iterator[Episode]:
    for start in range(0, tasks.n_tasks, size):
        yield tasks.tasks(start, min(start + size, tasks.n_tasks))


def _autocast_here(device_type: str) -> Callable[[], torch.autocast | nullcontext[None]]:
    """Autocast is a property of a thread; this makes the caller's again in another."""
    if not torch.is_autocast_enabled(device_type):
        return nullcontext
    dtype = torch.get_autocast_dtype(device_type)
    return lambda: torch.autocast(device_type, dtype=dtype)


class _AttachedGradient(torch.autograd.Function):
    """A loss whose gradient is already known, given to autograd so that hooks (DDP's) see it."""

    @staticmethod
    def forward(ctx, loss: Tensor, grads: list[Tensor], *parameters: Tensor) -> Tensor:  # type: ignore[no-untyped-def] # noqa: ARG004
        ctx.grads = grads
        return loss.clone()

    @staticmethod
    def backward(ctx, grad_output: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
        return None, None, *torch._foreach_mul(ctx.grads, grad_output)


def attach_gradient(
    loss: Tensor, gradient: MetaGradient, theta: Mapping[str, Tensor], phi: Mapping[str, Tensor]
) -> Tensor:
    """``loss``, such that ``backward`` gives θ and φ the mean over tasks of ``gradient``.

    Args:
        loss: a scalar without a graph.
        gradient: summed over tasks.
        theta: the parameters to receive ``gradient.theta``, by name.
        phi: the parameters to receive ``gradient.phi``, by name.
    """
    b = gradient.query_losses.shape[0]
    pairs = [(p, gradient.theta[n]) for n, p in theta.items() if p.requires_grad]
    pairs += [(p, gradient.phi[n]) for n, p in phi.items() if p.requires_grad]
    means = torch._foreach_div([g for _, g in pairs], b)
    attached: Tensor = _AttachedGradient.apply(loss, means, *(p for p, _ in pairs))
    return attached
