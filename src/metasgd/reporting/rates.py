"""The learning rates that an adaptation used, as a table."""

from collections.abc import Mapping, Sequence

import torch
from rich.table import Table
from torch import Tensor


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
                *(f"{value:.4g}" for value in (rate.min(), rate.median(), rate.max())),
                f"{(rate < 0).float().mean():.0%}",
            )
            first = s
    return table
