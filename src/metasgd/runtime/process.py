"""Settings of the whole process by which outer steps of a millisecond are not drowned in what goes on beside them."""

import gc
import os
from contextlib import AbstractContextManager, nullcontext

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.profilers import Profiler

NOTHING: AbstractContextManager[None] = nullcontext()


class NoProfiler(Profiler):
    """Measures nothing, and costs nothing: Lightning enters its profiler some hundred times in an outer step."""

    def start(self, action_name: str) -> None:
        """Nothing to note."""

    def stop(self, action_name: str) -> None:
        """Nothing to note."""

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override] # noqa: ARG002
        """A block that is not measured."""
        return NOTHING


def collect_rarely() -> None:
    """Leave what there is now to the garbage collector no more, and let it look for cycles less often.

    An outer step makes none, but objects enough for the collector to look twice. What makes many is looked after
    by ``CollectAfterValidation``.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


class CollectAfterValidation(Callback):
    """Frees what a validation leaves in cycles: the figures drawn for TensorBoard, a hundred MiB each time."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        gc.collect()


def forget_absent_gpus() -> None:
    """Keep torch from searching for GPUs at every step of an optimizer, in the way that Lightning asks for.

    Lightning lets torch ask NVML, a library that is opened anew each time, since this does not disturb processes
    that are forked later; without a GPU there is nothing to disturb.
    """
    if not torch.cuda.is_available():
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
