"""Learning rates in words and tables: those that an adaptation used, and which were learned at all."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch
from rich.table import Table
from torch import Tensor

MOVED = 0.01
"""Of its start: by how much a rate has to differ from it to count as learned."""


def moved_share(rate: Tensor, start: float | tuple[float, float] | None) -> Tensor:
    """The share of a tensor's rates that moved by more than 1 % of their start; their device is not waited for.

    Args:
        rate: the rates of a tensor.
        start: where they all started: a number, or the ends of a range that one number was drawn from. If it is
            unknown, rates that are all the same count as unmoved.
    """
    first = torch.as_tensor(start, dtype=rate.dtype) if isinstance(start, int | float) else rate.flatten()[0]
    return ((rate - first).abs() > MOVED * first.abs()).float().mean()


def unmoved_in_words(moved: Mapping[str, float], reached: Collection[str] | None) -> str:
    """Which tensors' rates stayed at their start, and why; empty if none did.

    Args:
        moved: the share of each tensor's rates that moved, by its name.
        reached: names of the parameters that an inner gradient reaches; None if that is not known.
    """
    still = [n for n, share in moved.items() if not share]
    if not still:
        return ""
    said = f"{len(still)} of {len(moved)} tensors keep the rates that they started from"
    if reached is None or not set(still).isdisjoint(reached):
        return f"{said}: {', '.join(still)}"
    return f"{said}, as no gradient reaches these layers in this configuration: {', '.join(still)}"


def spread_of(rate: Tensor) -> list[str]:
    """The least, the median and the greatest, as a table shows them.

    The median of an even number of values is the mean of the two in the middle, of which torch's is the smaller.
    """
    values = rate.detach().double().cpu().numpy()
    return [f"{value:.4g}" for value in (values.min(), np.median(values), values.max())]


def rates_table(used: Sequence[Mapping[str, Tensor]], order: Sequence[str]) -> Table:
    """The learning rates that each inner step used, by parameter in this order; steps with the same ones in one row."""
    table = Table(title="learning rates used", title_justify="left")
    table.add_column("parameter")
    for heading in ("inner step", "least", "median", "greatest", "negative"):
        table.add_column(heading, justify="right")
    for name in (name for name in order if name in used[0]):
        by_step = [rates[name].flatten() for rates in used]
        first = 0
        for s in range(1, len(by_step) + 1):
            if s < len(by_step) and torch.equal(by_step[s], by_step[first]):
                continue
            rate = by_step[first]
            table.add_row(
                name,
                f"{first + 1}" if s == first + 1 else f"{first + 1} to {s}",
                *spread_of(rate),
                f"{(rate < 0).float().mean():.0%}",
            )
            first = s
    return table
