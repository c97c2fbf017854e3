"""What ends a command from outside: a full disk, a remote place or another process that is gone."""

import errno
import os
import traceback

import torch
import torch.distributed

from metasgd.errors import first_line
from metasgd.runs.storage import is_lost_place
from metasgd.runtime.signals import is_lost_process, reason_of_loss

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What a full disk answers to whoever writes."""
RESUME = "resume with --ckpt_path last"
EVENTS = "events.out.tfevents"
WORKER = "DataLoader worker"
"""How torch's errors begin when a worker has died, which have no type of their own."""


def _is_lost_worker(error: BaseException) -> bool:
    """Whether this error came of a process that fetched batches, and has ended."""
    if isinstance(error, RuntimeError):
        return str(error).startswith(WORKER)
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    return isinstance(error, ConnectionError | EOFError | FileNotFoundError) and any(
        frame.f_globals.get("__name__") == "torch.utils.data.dataloader" for frame in frames
    )


def run_is_gone(folder: object) -> str:
    """What to say of a run whose folder disappeared while it was trained."""
    return (
        f"the run's folder {folder} is not there any more: it was deleted, or moved. Training stops, since nothing can"
        " be saved; resume it where it lies now, by --ckpt_path and the path of its last.ckpt"
    )


def ending_of(error: BaseException | None) -> tuple[int, str] | None:
    """The exit code and the message for an error that is nobody's mistake here; None for all others."""
    if error is None:
        return None
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return 2, (
            f"a file could not be written ({error.strerror}); the checkpoint written before is still there. Make room,"
            f" and {RESUME}"
        )
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "not enough memory" in str(error):
        what = first_line(error)
        return 2, (
            f"the memory is not enough ({what}). Lower --data.meta_batch_size, the shots and queries of a task, or the"
            " width of the network; --model.recompute true takes less for many inner steps"
        )
    if isinstance(error, RuntimeError) and str(error).startswith("Early stopping conditioned on metric"):
        return 2, f"trainer.callbacks has an EarlyStopping on what is not logged: {first_line(error)}"
    if isinstance(error, OSError) and EVENTS in str(error.filename):
        folder = os.fsdecode(error.filename).partition(f"/{EVENTS}")[0]
        return 2, run_is_gone(folder) if error.errno == errno.ENOENT else (
            f"the run's folder {folder} cannot be written any more ({error.strerror}). Allow writing there,"
            f" and {RESUME}"
        )
    too_many = isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)
    if too_many or str(error).startswith("Too many open files"):  # the second is torch's, of its workers
        return 2, (
            "this process may open no more files (ulimit -n). Raise the limit, or use fewer processes that fetch"
            f" batches, as --data.num_workers 0; to resume, {RESUME}"
        )
    if _is_lost_worker(error):
        what = f"{type(error).__name__}: {error}".splitlines()[0].strip().rstrip(".")
        return 1, (
            f"a process that fetches batches (data.num_workers) was ended from outside, as for lack of memory ({what})."
            f" Use fewer of them if it was, and {RESUME}"
        )
    if isinstance(error, torch.distributed.DistNetworkError) and "EADDRINUSE" in str(error):
        return 2, (
            f"the port {os.environ.get('MASTER_PORT')} of this host, by which the processes of the run are to find each"
            " other, is taken by another program. Set MASTER_PORT to a free one, or leave it out"
        )
    if isinstance(error, RuntimeError) and is_lost_process(error):
        return 1, (
            "another process of this run has ended, or has not answered within the time that trainer.strategy allows"
            f" ({reason_of_loss(error)}). Start the run again with --ckpt_path last"
        )
    if is_lost_place(error):
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        return 2, (
            f"the place of the run's files (trainer.logger.init_args.save_dir) does not answer any more ({what}); the"
            f" checkpoint written before is still there. See that it is reached from here and writable, and {RESUME}"
        )
    return None
