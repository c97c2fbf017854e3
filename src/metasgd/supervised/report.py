"""What a comparison found: a table, a figure and results.json."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from numpy.typing import NDArray
from rich.markup import escape
from rich.table import Table

from metasgd.errors import counted
from metasgd.reporting.text import figure_text, printable
from metasgd.supervised.comparison import SPACING, Row

LEGEND_COLUMNS = 8
MOST_NAME = 60
"""Characters of an optimizer's name that the table shows; results.json has them all."""


@dataclass(frozen=True)
class Protocol:
    """By which protocol the rows were compared, as far as the table must say it."""

    metric: str
    higher_is_better: bool
    steps: int
    seeds: int
    trials: int
    most_trials: int
    target_loss: float

    def in_words(self) -> str:
        return (
            f"{counted(self.steps, 'step')}, mean ± standard deviation over {counted(self.seeds, 'seed')}. Each"
            f" baseline's learning rate was tuned on validation with one more seed: {counted(self.trials, 'setting')} a"
            f" factor of √10 apart, more while the best was at the edge, at most {self.most_trials}; the learned"
            f" optimizer's factor is 1, untuned. Steps to validation loss {self.target_loss:.3g}: the first"
            f" evaluation at or below it. ÷√10, ×√10: validation {self.metric} with the learning rate off"
            " by so much, one seed."
        )


def common_target(rows: Sequence[Row]) -> float:
    """The lowest validation loss that the mean curve of every candidate reaches, but for those that never learn."""
    curves = [_over_seeds(row, "val_loss").mean(axis=0) for row in rows]
    learning = [curve for curve in curves if np.nanmin(curve) < curve[0]]
    return float(max(np.nanmin(curve) for curve in learning or curves))


def summary(row: Row, protocol: Protocol) -> dict[str, Any]:
    """A row's figures; those over seeds as mean and standard deviation."""
    finals = np.array([trace.test_metric for trace in row.traces])
    losses = _over_seeds(row, "val_loss").mean(axis=0)
    reached = np.flatnonzero(losses <= protocol.target_loss)
    off = {side: _nearest(row.trials, row.lr * factor) for side, factor in (("low", 1 / SPACING), ("high", SPACING))}
    longest = max(row.traces, key=lambda trace: len(trace.steps))
    return {
        "optimizer": row.name,
        "learning_rate": row.lr,
        "tuned": row.tuned,
        f"test/{protocol.metric}": float(finals.mean()),
        f"test/{protocol.metric}_sd": float(finals.std(ddof=1)) if len(finals) > 1 else math.nan,
        "val/loss": float(losses[-1]),
        "steps_to_target": longest.steps[reached[0]] if len(reached) else None,
        "seconds_per_step": float(np.median([trace.seconds[-1] / trace.steps[-1] for trace in row.traces])),
        "val_off_low": off["low"],
        "val_off_high": off["high"],
        "diverged": sum(trace.diverged for trace in row.traces),
    }


def table(rows: Sequence[Row], protocol: Protocol, title: str) -> Table:
    """The table that ``compare`` prints, the best row first."""
    percent = protocol.metric == "accuracy"
    metric, sign = f"test/{protocol.metric}", -1 if protocol.higher_is_better else 1
    found = sorted((summary(row, protocol) for row in rows), key=lambda s: (math.isnan(s[metric]), sign * s[metric]))

    def shown(value: float | None) -> str:
        if value is None:
            return "not tried"
        return "diverged" if math.isnan(value) else f"{100 * value:.2f}" if percent else f"{value:.4g}"

    printed = Table(title=escape(printable(title, MOST_NAME)), caption=protocol.in_words())
    for name in ("optimizer", "learning rate", f"test {protocol.metric}{', %' if percent else ''}", "val loss"):
        printed.add_column(name, justify="left" if name == "optimizer" else "right")
    for name in ("steps to loss", "ms per step", "÷√10", "×√10"):
        printed.add_column(name, justify="right")
    for s in found:
        spread = "" if math.isnan(s[f"{metric}_sd"]) else f" ± {shown(s[f'{metric}_sd'])}"
        printed.add_row(
            escape(printable(s["optimizer"], MOST_NAME)),
            f"{s['learning_rate']:.3g}" if s["tuned"] else "untuned",
            shown(s[metric]) + spread + (f" ({s['diverged']} diverged)" if s["diverged"] else ""),
            f"{s['val/loss']:.3f}",
            "never" if s["steps_to_target"] is None else str(s["steps_to_target"]),
            f"{1000 * s['seconds_per_step']:.1f}",
            shown(s["val_off_low"]),
            shown(s["val_off_high"]),
            style=None if s["tuned"] else "bold",
        )
    return printed


def as_json(rows: Sequence[Row], protocol: Protocol) -> dict[str, Any]:
    """Everything found, with the traces."""
    return {
        "terms": asdict(protocol) | {"in_words": protocol.in_words()},
        "rows": [
            summary(row, protocol)
            | {"trials": {f"{lr:g}": v for lr, v in row.trials.items()}, "traces": [asdict(t) for t in row.traces]}
            for row in rows
        ],
    }


def figure(rows: Sequence[Row], protocol: Protocol, title: str) -> Figure:
    """Loss and metric on validation, over steps and over seconds: mean over the seeds, and their range."""
    drawn = Figure(figsize=(12, 8), layout="constrained")
    panels = drawn.subplots(2, 2, sharex="col")
    dashes = itertools.cycle(("-", "--", ":"))
    for c, row in enumerate(rows):
        style: dict[str, Any] = {"color": f"C{c}", "linewidth": 1.5}
        if not row.tuned:
            style = {"color": "black", "linewidth": 2.5, "linestyle": next(dashes)}
        steps = max((trace.steps for trace in row.traces), key=len)
        seconds = _over_seeds(row, "seconds").mean(axis=0)
        for line, values in enumerate((_over_seeds(row, "val_loss"), _over_seeds(row, "val_metric"))):
            for column, across in enumerate((steps, seconds)):
                panel = panels[line, column]
                panel.plot(across, values.mean(axis=0), label=figure_text(row.name), **style)
                panel.fill_between(
                    across, values.min(axis=0), values.max(axis=0), color=style["color"], alpha=0.15, linewidth=0
                )
    for column, across in enumerate(("steps", "seconds of training")):
        panels[0, column].set(ylabel="validation loss")
        _in_plain_decades(panels[0, column])
        panels[1, column].set(xlabel=across, ylabel=f"validation {protocol.metric}")
        if protocol.metric != "accuracy":
            _in_plain_decades(panels[1, column])
    drawn.legend(
        *panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=min(len(rows), LEGEND_COLUMNS)
    )
    drawn.suptitle(figure_text(title, most=100))
    return drawn


def _in_plain_decades(panel: Axes) -> None:
    """A logarithmic axis that is read without powers of ten."""
    panel.set_yscale("log")
    panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.yaxis.set_major_formatter("{x:g}")
    panel.yaxis.set_minor_formatter(NullFormatter())


def _over_seeds(row: Row, name: str) -> NDArray[np.float64]:
    """``[seeds, evaluations]``; a training that diverged stays at what it last was."""
    curves = [getattr(trace, name) for trace in row.traces]
    longest = max(map(len, curves))
    return np.array([curve + [curve[-1]] * (longest - len(curve)) for curve in curves], dtype=np.float64)


def _nearest(trials: dict[float, float], lr: float) -> float | None:
    """What that learning rate gave, NaN if it diverged; None if it was not tried."""
    return next((value for tried, value in trials.items() if math.isclose(tried, lr, rel_tol=0.01)), None)
