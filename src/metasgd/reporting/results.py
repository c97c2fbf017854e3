"""What a test found: the printed table, ``results.json`` and ``tasks.csv``."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from metasgd.errors import counted
from metasgd.reporting.metrics import Summary

MOST_ROWS = 10
"""Inner steps that the table shows; ``results.json`` has all."""


@dataclass(frozen=True)
class TestResult:
    """Means over test tasks after 0 … S inner steps, with the half-widths of their 95 % intervals.

    ``by_task`` is the metric of every task after the last step, in the order of the tasks' numbers: the same
    tasks whatever the learner, so that two learners can be compared task by task.
    """

    __test__ = False  # pytest: this is no test class

    loss: list[float]
    loss_ci95: list[float]
    metric: list[float]
    metric_ci95: list[float]
    by_task: list[float]

    @classmethod
    def of(cls, found: Summary) -> "TestResult":
        """From the losses after 0 … S steps, then the metric after each, of every task."""
        (loss, metric), (loss_ci95, metric_ci95) = found.mean.chunk(2), found.ci95.chunk(2)
        return cls(
            loss=loss.tolist(),
            loss_ci95=loss_ci95.tolist(),
            metric=metric.tolist(),
            metric_ci95=metric_ci95.tolist(),
            by_task=found.by_task[:, -1].tolist(),
        )


@dataclass(frozen=True)
class Protocol:
    """How the figures were obtained, as far as they depend on it."""

    metric: str
    n_way: int
    k_shot: int
    n_query: int
    inner_steps: int
    adapts: str  # all, head, nothing (prototypes), or how many of the layers
    transductive: bool | None  # none: nothing in the network looks at a whole batch
    one_alphabet: bool
    data_seed: int
    source: str
    source_options: dict[str, Any]
    update_rule: str
    checkpoint: str | None  # as --ckpt_path takes it
    outer_steps: int  # of an ensemble, of its first checkpoint
    eval_views: int = 1  # the support set as it is, and distorted
    ensemble: Sequence[Mapping[str, Any]] | None = None  # what is known of each, where several predict together

    def in_words(self) -> str:
        shown, asked = ("trajectories a step", "evaluated") if self.metric == "return" else ("points", "queries")
        ways = f"{self.n_way}-way {self.k_shot}-shot" if self.metric == "accuracy" else f"{self.k_shot} {shown}"
        if self.one_alphabet:
            ways += " within one alphabet"
        parts = [ways, f"{self.n_query} {asked}", counted(self.inner_steps, "inner step")]
        parts.append(f"adapts {self.adapts}")
        if self.transductive is not None:
            parts.append("transductive (query statistics)" if self.transductive else "inductive (support statistics)")
        if self.eval_views > 1:
            parts.append(f"mean of {self.eval_views} views (distorted support sets)")
        if self.ensemble:
            parts.append(f"ensemble of {len(self.ensemble)} (mean of their predictions)")
        return ", ".join(parts)


def in_words(mean: float, half: float | None, metric: str) -> str:
    """A mean and its 95 % interval, if that is known; accuracies in percent.

    Example:
        >>> in_words(0.9, 0.01, "accuracy"), in_words(0.5, 0.25, "mse")
        ('90.00 ± 1.00 %', '0.5000 ± 0.2500')
    """
    scale, unit, digits = (100, " %", 2) if metric == "accuracy" else (1, "", 4)
    interval = "" if half is None else f" ± {scale * half:.{digits}f}"
    return f"{scale * mean:.{digits}f}{interval}{unit}"


def table(result: TestResult, protocol: Protocol, what: str = "test") -> Table:
    """The table that ``test`` prints, and ``validate``."""
    last = len(result.metric) - 1
    accuracy = protocol.metric == "accuracy"
    scale, digits = (100, 2) if accuracy else (1, 4)
    rows = Table(title=f"{what}: {protocol.source}", caption=protocol.in_words(), min_width=60)
    rows.add_column("after")
    rows.add_column("accuracy, %" if accuracy else protocol.metric, justify="right")
    rows.add_column("± 95 %", justify="right")
    rows.add_column("loss", justify="right")
    rows.add_column("± 95 %", justify="right")
    # of long runs some steps, evenly
    for s in sorted(
        {round(last * row / MOST_ROWS) for row in range(MOST_ROWS + 1)} if last > MOST_ROWS else range(last + 1)
    ):
        rows.add_row(
            "no step" if s == 0 else f"{s} step{'s' if s > 1 else ''}",
            f"{scale * result.metric[s]:.{digits}f}",
            f"{scale * result.metric_ci95[s]:.{digits}f}",
            f"{result.loss[s]:.4f}",
            f"{result.loss_ci95[s]:.4f}",
            style="bold" if s == last else None,
        )
    return rows


def files(result: TestResult, protocol: Protocol) -> tuple[str, dict[str, Any]]:
    """The text of ``tasks.csv``, the metric of every task after the last step, and the content of ``results.json``."""
    by_inner_step = asdict(result)
    by_task = by_inner_step.pop("by_task")
    content: dict[str, Any] = {
        f"test/{protocol.metric}": result.metric[-1],
        f"test/{protocol.metric}_ci95": result.metric_ci95[-1],
        "test/loss": result.loss[-1],
        "test/loss_before": result.loss[0],
        "n_tasks": len(by_task),
        "protocol": asdict(protocol) | {"in_words": protocol.in_words()},
        "by_inner_step": by_inner_step,
    }
    rows = [f"task,{protocol.metric}", *(f"{task},{figure:.6g}" for task, figure in enumerate(by_task))]
    return "\n".join(rows) + "\n", content
