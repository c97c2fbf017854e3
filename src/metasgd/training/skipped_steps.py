"""Outer steps without a finite gradient: they are left out, and counted."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor
from torch.optim import Optimizer

from metasgd.training.device_steps import runs_ahead

READ_EVERY = 50
"""Outer steps after which the host looks at what a device has counted, at the latest."""


class SkippedSteps:
    """Takes the outer steps whose gradient is finite, and counts the others.

    Where the optimizer runs ahead, both are done on the device, and the host waits when it asks.

    Args:
        total: left out so far.
        in_a_row: since the last that was taken.
    """

    def __init__(self, total: int = 0, in_a_row: int = 0) -> None:
        self._known = [total, in_a_row, in_a_row]  # and the most in a row since the host has looked
        self._on_device: Tensor | None = None

    @property
    def total(self) -> int:
        self._read()
        return self._known[0]

    def count(self) -> Tensor | float:
        """The total where it is counted, for which nobody waits."""
        return float(self._known[0]) if self._on_device is None else self._on_device[0].to(torch.float32)

    @property
    def in_a_row(self) -> int:
        self._read()
        return self._known[1]

    def most_in_a_row(self, at_once: bool) -> int:
        """The most in a row since the last call.

        Args:
            at_once: wait for the device, if it counts there; else its count is left for later.
        """
        if self._on_device is not None and not at_once:
            return 0
        self._read()
        most, self._known[2] = self._known[2], self._known[1]
        return most

    def state_dict(self) -> dict[str, int]:
        return {"total": self.total, "in_a_row": self.in_a_row}

    def step(self, optimizer: LightningOptimizer | Optimizer, norm: Tensor) -> Tensor | bool:
        """Step the optimizer if the gradient, of that norm, is finite; return whether it is."""
        own: Any = optimizer.optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        if not runs_ahead(own, norm.device):
            finite = bool(norm.isfinite())
            self._count_here(not finite)
            if not finite:
                optimizer.zero_grad()
            optimizer.step()
            return finite
        is_finite = norm.isfinite()
        skipped = ~is_finite
        self._count_there(skipped)
        own.found_inf = skipped.to(torch.float32)  # as torch.amp.GradScaler says it
        try:
            optimizer.step()
        finally:
            del own.found_inf
        return is_finite

    def _count_here(self, skipped: bool) -> None:
        total, in_a_row, most = self._known
        in_a_row = in_a_row + 1 if skipped else 0
        self._known = [total + skipped, in_a_row, max(most, in_a_row)]

    def _count_there(self, skipped: Tensor) -> None:
        if self._on_device is None:
            self._on_device = torch.tensor(self._known, device=skipped.device)
        total, in_a_row, most = self._on_device.unbind()
        total += skipped
        in_a_row.add_(1).mul_(skipped)
        most.copy_(torch.maximum(most, in_a_row))

    def _read(self) -> None:
        if self._on_device is not None:
            self._known, self._on_device = self._on_device.tolist(), None

    def explain(
        self, step: int, tasks: Sequence[int], culprits: Sequence[int], rates: Iterable[Tensor], in_a_row: int
    ) -> str:
        """Why the run stops, and what to do.

        Args:
            step: the last outer step.
            tasks: the numbers of its tasks.
            culprits: those whose loss was not finite.
            rates: the learned rates.
            in_a_row: outer steps without a finite gradient.
        """
        whose = f"the loss of the tasks {list(culprits)}" if culprits else "no task's loss, but their gradient"
        flat = [rate.detach().flatten() for rate in rates]
        spread = f", with rates from {torch.cat(flat).min():g} to {torch.cat(flat).max():g}" if flat else ""
        return (
            f"the outer gradient was not finite {in_a_row} times in a row, which is model.outer.max_skipped_steps;"
            f" last at outer step {step} on the tasks {tasks[0]} to {tasks[-1]}: not finite was {whose}{spread}. Lower"
            " the outer learning rate or the start of the inner rates, or set model.outer.gradient_clip_norm; the last"
            " good checkpoint is still there."
        )
