"""A stand-in for CUDA graphs on the CPU: it keeps the operations of a run and does them again, in the same tensors."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from metasgd.meta.capture import CAPTURES, Capture, Function, Recording
from metasgd.training import device_steps

aten = torch.ops.aten
WAITING = {aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default, aten.equal.default}


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps each operation with the very tensors it read and returned, as a recording has their addresses.

    Refuses those for whose result the host would wait.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.done: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], Any]] = []

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in WAITING:
            raise RuntimeError("operation not permitted when stream is capturing")
        found = func(*args, **(kwargs or {}))
        self.done.append((func, args, kwargs or {}, found))
        return found


class StandIn(Capture):
    """Nothing of Python is run again: numbers, branches and attributes are those of the recording.

    Attributes:
        n_recorded: recordings made.
        n_replayed: replays of any of them.
    """

    def __init__(self) -> None:
        self.n_recorded = self.n_replayed = 0

    def warm_up(self, function: Function) -> list[list[Tensor]]:
        return [function() for _ in range(2)]

    def record(self, function: Function) -> Recording:
        with Operations() as operations:
            outputs = function()
        self.n_recorded += 1

        def replay() -> None:
            self.n_replayed += 1
            with torch.no_grad():
                for func, args, kwargs, found in operations.done:
                    again = func(*args, **kwargs)
                    for own, new in zip(tree_leaves(found), tree_leaves(again), strict=True):
                        # a view, and what was written to in place, is there already
                        if isinstance(own, Tensor) and own.data_ptr() != new.data_ptr():
                            own.copy_(new)

        return Recording(replay, outputs)


def in_turn(lines: list[list[str]]) -> int:
    """Run commands in this process; those with the option ``graph`` with the CPU as a device that records.

    Returns:
        the worst of their exit codes.
    """
    from metasgd.cli.main import main

    codes = []
    for line in lines:
        capture = StandIn()
        if "graph" in line:
            CAPTURES["cpu"], device_steps.AHEAD = partial(_the, capture), ("cpu",)
        codes.append(main(line))
        assert bool(capture.n_replayed) is ("graph" in line)
        CAPTURES.pop("cpu", None)
        device_steps.AHEAD = ()
    return max(codes)


def _the(capture: Capture) -> Capture:
    return capture
