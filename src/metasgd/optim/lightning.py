"""The losses that a ``lightning.pytorch.Trainer`` steps by.

Lightning's ``accumulate_grad_batches`` and its GradScaler keep losses from an optimizer: a closure returns the last
batch's alone, divided by the number of batches, and a scaled step has no closure at all. The Trainer's public hook
``on_before_backward`` has them all. Lightning is never imported here: only where it is already running, and calls
``zero_grad`` of the optimizer, is it looked at.
"""

import sys
from types import FrameType
from typing import Any

import torch
from torch import Tensor

PACKAGES = ("lightning.pytorch", "pytorch_lightning")
CALLERS = 6
"""How far above ``zero_grad`` the LightningModule that calls it is looked for."""


class TrainerLosses:
    """The losses since the gradients were last cleared, while a Trainer optimizes by itself."""

    def __init__(self) -> None:
        self._losses: list[Tensor] = []
        self._trainer: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {"_losses": [], "_trainer": None}  # a copy is not that Trainer's optimizer

    def clear(self) -> None:
        """Forget the losses; called where gradients are cleared, also to find out who calls."""
        self.forget()
        package = next((name for name in PACKAGES if name in sys.modules), None)
        if package is None:
            return
        module = _calling_module(sys._getframe(2), sys.modules[package].LightningModule)
        if module is not None and module.automatic_optimization and module.trainer is not self._trainer:
            self._trainer = module.trainer
            self._trainer.callbacks.append(_callback(sys.modules[package].Callback, self))

    def forget(self) -> None:
        """Forget the losses, which a step was made by."""
        self._losses = []

    def mean(self) -> Tensor | None:
        """The mean loss of the batches that the gradients are of; None where no Trainer reports any."""
        return torch.stack(self._losses).mean() if self._losses else None

    def add(self, trainer: Any, loss: Tensor) -> None:
        """Take in a batch's loss as it goes into the reverse pass: divided by the number of batches, and scaled."""
        if trainer is not self._trainer:
            return
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        scale = scaler.get_scale() if scaler is not None else 1.0
        self._losses.append(loss.detach().float() / scale * trainer.accumulate_grad_batches)


def _calling_module(frame: FrameType | None, kind: type) -> Any:
    """The LightningModule among those whose methods are being called, innermost first."""
    for _ in range(CALLERS):
        if frame is None:
            return None
        owner = frame.f_locals.get("self")
        if isinstance(owner, kind):
            return owner
        frame = frame.f_back
    return None


def _callback(base: type, losses: TrainerLosses) -> Any:
    """A callback of that Trainer's own kind, which reports every loss."""

    def on_before_backward(self: Any, trainer: Any, pl_module: Any, loss: Tensor) -> None:  # noqa: ARG001
        losses.add(trainer, loss)

    return type("LearnedOptimizerLosses", (base,), {"on_before_backward": on_before_backward})()
