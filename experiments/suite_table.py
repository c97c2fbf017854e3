"""The table of ``compare --suite`` for docs/results.md."""

from statistics import median
from typing import Any

from results_tables import markdown

Record = dict[str, Any]
TITLE = "Optimizers with one setting for all, on ten kinds of problems"


def suite_section(records: list[Record]) -> str:
    """What each suite found, the best mean rank first; nothing where none is recorded."""
    own = [record for record in records if record["table"] == "suite"]
    return "".join([f"\n## {TITLE}\n", *map(_table, own)] if own else [])


def _table(record: Record) -> str:
    rows = []
    for name, score in record["scores"].items():
        times = [row["time_ratio"] for row in record["rows"] if row["contender"] == name and "time_ratio" in row]
        tuned = any(row["tuned"] for row in record["rows"] if row["contender"] == name)
        rows.append(
            [
                name if tuned else f"**{name}**",
                f"{score['mean_rank']:.1f}",
                _with_interval(score["loss_ratio"], score["loss_interval"]),
                _with_interval(score["speed_up"], score["speed_interval"]),
                f"{score['worst_ratio']:.2f} ({score['worst_on']})",
                f"{score['diverged']} of {score['trainings']}",
                f"{median(times):.2f}" if times else "–",
            ]
        )
    head = [
        "optimizer (**untuned**)",
        "mean rank",
        "loss ratio",
        "speed-up",
        "worst loss ratio",
        "diverged",
        "time ratio",
    ]
    terms = record["terms"]
    edges = [f"{row['contender']} on {row['workload']}" for row in record["rows"] if row["at_edge"]]
    said = [
        f"Seeds of each training: {terms['seeds']}.",
        terms["in_words"],
        *([f"Best at the edge of the learning rates tried: {', '.join(edges)}."] if edges else []),
        *terms["left_out"],
    ]
    made = f"`{record['command']}` ({record['machine']})"
    losses = f"Test losses, by workload, means over the seeds:\n\n{_losses(record)}"
    return f"\n**{record['row']}.** {made}:\n\n{markdown(head, rows)}\n{' '.join(said)}\n\n{losses}"


def _losses(record: Record) -> str:
    """The mean test losses of each workload, in the order of the scores; the least of the untuned in bold."""
    names = list(record["scores"])
    found = {(row["workload"], row["contender"]): row for row in record["rows"]}
    rows = []
    for workload in record["terms"]["workloads"]:
        own = [found[workload, name] for name in names]
        least = min((row["test_loss"] for row in own if not row["tuned"] and not row["diverged"]), default=None)
        rows.append([f"`{workload}`", *(_loss(row, row["test_loss"] == least and not row["tuned"]) for row in own)])
    return markdown(["", *names], rows)


def _loss(row: Record, least: bool) -> str:
    if row["diverged"]:
        return f"diverged ({row['diverged']})"
    return f"**{row['test_loss']:.3g}**" if least else f"{row['test_loss']:.3g}"


def _with_interval(value: float, interval: list[float]) -> str:
    return f"{value:.2f} ({interval[0]:.2f} to {interval[1]:.2f})"
