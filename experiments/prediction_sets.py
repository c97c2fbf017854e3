"""How often prediction sets hold the true class, and unknown classes are found, on tasks of classes never trained on.

    python experiments/prediction_sets.py CHECKPOINT [--tasks 200] [--ways 5] [--shots 5] [--root data] [--json FILE]

As ``adapt --coverage`` and ``--unknown`` do it: a task has WAYS classes of SHOTS pictures, which are left out one at a
time. Asked about are 10 other pictures of each, and 10 of each of 3 classes that it does not have.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

import metasgd
from metasgd.learner.load import load_source
from metasgd.learner.meta_learner import MetaLearner
from metasgd.learner.prediction_sets import LeftOut
from metasgd.training.datamodule import EpisodicDataModule

UNKNOWN, QUERIES = 3, 10
COVERAGES, RATES = (0.8, 0.9), (0.05, 0.1)


def measured(learner: MetaLearner, data: EpisodicDataModule, ways: int, task: int) -> dict[str, list[float]]:
    """Of one task: by coverage the share covered and the sets' size, by rate the shares of known and unknown found."""
    drawn = data.samplers["test"].draw(np.array([task]))
    x, y, asked, truth = (part[0].numpy() for part in (drawn.support_x, drawn.support_y, drawn.query_x, drawn.query_y))
    x, y = x[y < ways], y[y < ways]
    outputs = learner.adapt(x, y).decision_function(asked)
    left_out = LeftOut(np.stack([row for _, row in learner.left_out(x, y)]).astype(np.float64), y)
    known = truth < ways
    found = {"accuracy": [float((outputs[known].argmax(axis=1) == truth[known]).mean())]}
    for coverage in COVERAGES:
        sets = left_out.sets(outputs[known], coverage)
        covered = np.take_along_axis(sets, truth[known][:, None], axis=1)
        found[f"coverage {coverage}"] = [float(covered.mean()), float(sets.sum(axis=1).mean())]
    for rate in RATES:
        called = left_out.unknown(outputs, rate)
        found[f"unknown {rate}"] = [float(called[known].mean()), float(called[~known].mean())]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--ways", type=int, default=5)
    parser.add_argument("--shots", type=int, default=5)
    parser.add_argument("--root", default="data")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    learner = metasgd.load(options.checkpoint)
    source = load_source(learner.config, learner.trusted)
    assert source is not None, "the checkpoint was not trained on pictures"
    data = EpisodicDataModule(
        source,
        options.root,
        n_way=options.ways + UNKNOWN,
        k_shot=options.shots,
        n_query=QUERIES,
        test_tasks=options.tasks,
    )
    data.prepare_data()
    data.setup("test")
    tasks = [measured(learner, data, options.ways, task) for task in range(options.tasks)]
    table = Table(
        "",
        "share",
        "± 95 %",
        "",
        title=f"{options.checkpoint}: {options.ways}-way {options.shots}-shot, {len(tasks)} tasks",
    )
    figures = {}
    for name in tasks[0]:
        every = np.array([task[name] for task in tasks])
        half = 1.96 * every.std(axis=0, ddof=1) / len(every) ** 0.5
        figures[name] = {"mean": every.mean(axis=0).tolist(), "ci95": half.tolist()}
        kind = name.split()[0]
        more = "" if kind == "accuracy" else f"{every[:, 1].mean():.2f} classes in a set"
        if kind == "unknown":
            more = f"{100 * every[:, 1].mean():.1f} ± {100 * half[1]:.1f} % of unknown classes found"
        table.add_row(name, f"{100 * every[:, 0].mean():.1f}", f"{100 * half[0]:.1f}", more)
    Console().print(table)
    if options.json:
        options.json.write_text(
            json.dumps({"tasks": len(tasks), "ways": options.ways, "shots": options.shots, **figures}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
