"""What ends a command from outside: a full disk, a remote place or another process that is gone."""

import errno

import torch

from metasgd.runs.storage import is_lost_place
from metasgd.runtime.signals import is_lost_process, reason_of_loss

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What a full disk answers to whoever writes."""
GO_ON = "go on with --ckpt_path last"


def ending_of(error: BaseException | None) -> tuple[int, str] | None:
    """The exit code and the message for an error that is nobody's mistake here; None for all others."""
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return 2, (
            f"a file could not be written ({error.strerror}); the checkpoint written before is kept. Make room, and"
            f" {GO_ON}"
        )
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "not enough memory" in str(error):
        what = str(error).splitlines()[0] if str(error) else type(error).__name__
        return 2, (
            f"the memory is not enough ({what}). Lower --data.meta_batch_size, the shots and queries of a task, or the"
            " width of the network; --model.recompute true takes less for many inner steps"
        )
    if isinstance(error, RuntimeError) and str(error).startswith("Early stopping conditioned on metric"):
        return 2, f"trainer.callbacks has an EarlyStopping on what is not logged: {str(error).splitlines()[0]}"
    if isinstance(error, RuntimeError) and is_lost_process(error):
        return 1, (
            "another process of this run has ended, or has not answered within the time that trainer.strategy allows"
            f" ({reason_of_loss(error)}). Start the run again with --ckpt_path last"
        )
    if error is not None and is_lost_place(error):
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        return 2, (
            f"the place of the run's files (trainer.logger.init_args.save_dir) does not answer any more ({what}); the"
            f" checkpoint written before is kept there. See that it is reached from here and writable, and {GO_ON}"
        )
    return None
