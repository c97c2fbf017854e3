"""A stand-in for CUDA graphs on the CPU: it keeps the operations of a run and does them again, in the same tensors."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from metasgd.meta.capture import Capture, Function, Recording

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
