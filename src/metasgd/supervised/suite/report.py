"""What a suite found: the tables that are printed, results.json and a CSV file."""

import csv
import io
import math
import statistics
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rich.markup import escape
from rich.table import Table

from metasgd.reporting.text import printable
from metasgd.supervised.suite.contenders import REFERENCE
from metasgd.supervised.suite.cost import Cost
from metasgd.supervised.suite.running import Rows, at_edge
from metasgd.supervised.suite.scores import Outcome, Score, as_figures, ranks

Outcomes = Mapping[str, Mapping[str, Outcome]]
Costs = Mapping[str, Mapping[str, Cost]]
MOST_NAME = 40
LEGEND = (
    f"Ratios are to {REFERENCE} and above 1 where better than that: interquartile means over the workloads, with 95 %"
    " bootstrap intervals over workloads and seeds. loss ratio: of final test losses. speed-up: of the steps to its"
    " last validation loss, 0 if never there. worst: the least loss ratio. rank: mean, by test loss. time ratio: of the"
    " processor time of whole steps, median over the workloads."
)


def figures(rows: Rows, outcomes: Outcomes, costs: Costs) -> list[dict[str, Any]]:
    """One entry for each contender on each workload, flat."""
    found = []
    for workload, own in outcomes.items():
        placed = dict(zip(own, ranks([float(outcome.test_loss.mean()) for outcome in own.values()]), strict=True))
        for name, outcome in own.items():
            row, cost = rows[workload][name], costs.get(workload, {}).get(name)
            found.append(
                {"workload": workload, "contender": name, "learning_rate": row.lr, "tuned": row.tuned}
                | {"at_edge": at_edge(row.lr, row.trials)}
                | as_figures(outcome, own[REFERENCE])
                | {"rank": placed[name]}
                | ({} if cost is None else asdict(cost))
            )
    return found


def as_json(
    rows: Rows, scored: Mapping[str, Score], entries: list[dict[str, Any]], terms: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything found, with the traces."""
    whole = [
        entry
        | {
            "trials": {f"{lr:g}": loss for lr, loss in rows[entry["workload"]][entry["contender"]].trials.items()},
            "traces": [asdict(trace) for trace in rows[entry["workload"]][entry["contender"]].traces],
        }
        for entry in entries
    ]
    return {
        "terms": {**terms, "in_words": LEGEND},
        "scores": {name: asdict(score) for name, score in scored.items()},
        "rows": whole,
    }


def as_csv(entries: list[dict[str, Any]]) -> bytes:
    """The entries as a table for other programs."""
    file = io.StringIO()
    writer = csv.DictWriter(file, fieldnames=list(entries[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(entries)
    return file.getvalue().encode()


def summary(scored: Mapping[str, Score], costs: Costs, title: str) -> Table:
    """The contenders, best mean rank first."""
    printed = Table(title=escape(printable(title, MOST_NAME)), caption=LEGEND)
    columns = ("contender", "loss ratio", "speed-up", "worst", "rank", "diverged", "time ratio", "bytes/parameter")
    for column in columns:
        printed.add_column(column, justify="left" if column == "contender" else "right")
    for name, score in scored.items():
        of_all = [own[name].bytes_per_parameter for own in costs.values()]
        printed.add_row(
            escape(printable(name, MOST_NAME)),
            _with_interval(score.loss_ratio, score.loss_interval),
            _with_interval(score.speed_up, score.speed_interval),
            f"{score.worst_ratio:.2f} ({score.worst_on})",
            f"{score.mean_rank:.1f}",
            f"{score.diverged} of {score.trainings}",
            _shown(_median([own[name].time_ratio for own in costs.values()])),
            _shown(_median(of_all)),
        )
    return printed


def loss_table(outcomes: Outcomes, order: list[str]) -> Table:
    """The mean test loss of every contender on every workload."""
    printed = Table(title="test loss, mean over the seeds")
    printed.add_column("workload")
    for name in order:
        printed.add_column(escape(printable(name, MOST_NAME)), justify="right")
    for workload, own in outcomes.items():
        losses = (float(own[name].test_loss.mean()) for name in order)
        printed.add_row(workload, *("diverged" if math.isinf(loss) else f"{loss:.4g}" for loss in losses))
    return printed


def _with_interval(value: float, interval: tuple[float, float]) -> str:
    return f"{value:.2f} ({interval[0]:.2f} to {interval[1]:.2f})"


def _median(values: list[float]) -> float:
    return statistics.median(values) if values else math.nan


def _shown(value: float) -> str:
    return "not measured" if math.isnan(value) else f"{value:.2f}"
