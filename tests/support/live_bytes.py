"""How many bytes of tensors a computation holds at once, counted from what every operation returns."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts while it is entered, on its own thread; what was there before does not count."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.storages: dict[int, tuple[StorageWeakRef, int]] = {}
        self.bytes, self.peak = 0, 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        given = None
        for t in tree_leaves(out):
            if not isinstance(t, Tensor) or t.data_ptr() == 0:
                continue
            storage = t.untyped_storage()
            at = storage.data_ptr()
            if at in self.storages and not self.storages[at][0].expired():  # type: ignore[no-untyped-call]
                continue
            if given is None:
                inputs = (i for i in tree_leaves((args, kwargs)) if isinstance(i, Tensor))
                given = {i.untyped_storage().data_ptr() for i in inputs}
            if at not in given:
                self.storages[at] = StorageWeakRef(storage), storage.nbytes()  # type: ignore[no-untyped-call]
                self.bytes += storage.nbytes()
        if self.bytes > self.peak:  # else it need not be known what is gone
            alive = {at: storages for at, storages in self.storages.items() if not storages[0].expired()}  # type: ignore[no-untyped-call]
            self.storages = alive
            self.bytes = sum(size for _, size in self.storages.values())
            self.peak = max(self.peak, self.bytes)
        return out
