"""Recording what a function does on a CUDA device, to do it again at the cost of one launch."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

Function = Callable[[], list[Tensor]]
WARM_UPS = 3
"""Runs before a recording, in which libraries choose their algorithms and take their workspaces."""


class Recording(NamedTuple):
    """A function's work on the device.

    Attributes:
        replay: does that work again, from what the tensors that the function read hold now.
        outputs: what the function returned; a replay writes to them.
    """

    replay: Callable[[], None]
    outputs: list[Tensor]


class Capture(ABC):
    """How functions are recorded on a kind of device."""

    @abstractmethod
    def warm_up(self, function: Function) -> list[list[Tensor]]:
        """What some runs of ``function`` return, one after the other, before it is recorded.

        Raises:
            RuntimeError: it waits for a value, so that it cannot be recorded.
        """

    @abstractmethod
    def record(self, function: Function) -> Recording:
        """Run ``function`` once and keep what it does.

        Raises:
            RuntimeError: it does what cannot be recorded.
        """


class CudaCapture(Capture):
    """CUDA graphs, all of which share one pool of memory: they are replayed one at a time."""

    def __init__(self) -> None:
        self._pool: Any = None

    def warm_up(self, function: Function) -> list[list[Tensor]]:
        current, side = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(current)
        with torch.cuda.stream(side):
            found = [function() for _ in range(WARM_UPS - 1)]
            with _no_waiting():
                found.append(function())
        current.wait_stream(side)
        return found

    def record(self, function: Function) -> Recording:
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        # other threads pin memory or watch over collectives meanwhile
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            outputs = function()
        return Recording(graph.replay, outputs)


@contextmanager
def _no_waiting() -> Iterator[None]:
    """Within, an operation that makes the host wait for the device raises: said here, and not amid a recording."""
    before = torch.cuda.get_sync_debug_mode()

    def set_mode(mode: int | str) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype")
            torch.cuda.set_sync_debug_mode(mode)

    set_mode("error")
    try:
        yield
    finally:
        set_mode(before)


CAPTURES: dict[str, Callable[[], Capture]] = {"cuda": CudaCapture}
"""By the type of the device, where work can be recorded."""
