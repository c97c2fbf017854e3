"""Settings of the whole process by which outer steps of a millisecond are not drowned in what runs beside them."""

import atexit
import gc
import os
import resource
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.multiprocessing
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.utilities import rank_zero_info

from metasgd.errors import UserError

FILES_OF_A_WORKER, FILES_OF_ITS_TENSORS = 8, 16
"""Open files that a process which fetches batches takes here: for itself, and for the tensors on their way from it."""
OWN_FILES = 10
"""Those that it opens meanwhile: the run's, and what it imports late."""
NOTHING: AbstractContextManager[None] = nullcontext()


def most_workers() -> int:
    """More processes than this are not started: each has all of the program in memory."""
    return max(64, 4 * (os.cpu_count() or 1))


def allow_workers(n: int) -> None:
    """See to it that this process may open the files that n processes which fetch batches take, and some of its own.

    Where it may not, some of these stop and the process waits for them for ever. It raises its own limit as far as it
    may; where that is not enough, tensors are passed by names in place of open files.

    Raises:
        UserError: the limit is too low for that too.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    least = taken + OWN_FILES + n * FILES_OF_A_WORKER
    enough = least + n * FILES_OF_ITS_TENSORS
    if n == 0 or soft == resource.RLIM_INFINITY or enough <= soft:
        return
    limit = enough if hard == resource.RLIM_INFINITY else min(enough, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, limit), hard))
    if limit < least:
        raise UserError(
            f"data.num_workers makes {n} processes that fetch batches, but this process may have {hard} files open"
            f" (ulimit -n), which is too few. Raise that limit, at least to {least}, or use --data.num_workers 0"
        )
    if limit < enough and torch.multiprocessing.get_sharing_strategy() != "file_system":  # type: ignore[no-untyped-call]
        torch.multiprocessing.set_sharing_strategy("file_system")  # type: ignore[no-untyped-call]
        rank_zero_info(f"batches are passed by names in shared memory, since only {hard} files may be open (ulimit -n)")


class NoProfiler(Profiler):
    """Measures nothing, and costs nothing: Lightning enters its profiler some hundred times in an outer step."""

    def start(self, action_name: str) -> None:
        """Nothing to note."""

    def stop(self, action_name: str) -> None:
        """Nothing to note."""

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]
        """A block that is not measured."""
        return NOTHING


def collect_rarely() -> None:
    """Leave what there is now to the garbage collector no more, and let it look for cycles less often.

    An outer step makes none, but objects enough for the collector to look twice. What makes many is looked after
    by ``CollectAfterValidation``.
    """
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)  # or extensions that look for leaks as Python ends, triton's, report all of theirs
    gc.set_threshold(20_000, 20, 50)


class CollectAfterValidation(Callback):
    """Frees what a validation leaves in cycles: the figures drawn for TensorBoard, a hundred MiB each time."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        gc.collect()


def forget_absent_gpus() -> None:
    """Keep torch from searching for GPUs at every step of an optimizer, in the way that Lightning asks for.

    Lightning lets torch ask NVML, a library that is opened anew each time, since this does not disturb processes
    that are forked later; without a GPU there is nothing to disturb.
    """
    if not torch.cuda.is_available():
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
