"""``predict`` writes what ``test`` counts."""

import csv
import json

import numpy as np
from support.commands import succeeded
from support.runs import TINY


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_predictions_of_classes_have_the_accuracy_that_test_reports(drawings_run):
    folder = drawings_run.parents[2]
    options = [
        "--config",
        str(drawings_run / "config.yaml"),
        "--ckpt_path",
        str(drawings_run / "checkpoints/last.ckpt"),
    ]
    for command in ("test", "predict"):
        succeeded(command, *options, cwd=folder)
    rows = table(drawings_run / "predictions.csv")
    assert list(rows[0]) == ["task", "query", "label", "predicted", "probability"]
    assert len(rows) == 20 * 5 * 3
    assert {row["label"] for row in rows} <= {f"c{c}" for c in range(200, 205)}
    assert all(0.2 <= float(row["probability"]) <= 1 for row in rows)
    accuracy = np.mean([row["label"] == row["predicted"] for row in rows])
    reported = json.loads((drawings_run / "results.json").read_text())["test/accuracy"]
    assert abs(accuracy - reported) < 1e-6


def test_predictions_of_curves_have_the_error_that_test_reports(metasgd, tmp_path):
    assert metasgd("fit", *TINY).returncode == 0
    run = tmp_path / "runs/sinusoid/version_0"
    for command in ("test", "predict"):
        done = metasgd(command, *TINY, "--ckpt_path", str(run / "checkpoints/last.ckpt"))
        assert done.returncode == 0, done.stderr
    rows = table(run / "predictions.csv")
    assert len(rows) == 40 * 100
    error = np.mean([(float(row["target"]) - float(row["predicted"])) ** 2 for row in rows])
    reported = json.loads((run / "results.json").read_text())["test/mse"]
    assert abs(error / reported - 1) < 1e-4
