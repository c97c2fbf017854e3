"""The comparison through the real command line."""

import json

from conftest import TINY
from test_cli_fit import succeeded


def test_compares_and_writes_table_figure_and_json(metasgd, tmp_path):
    rule = ["--model.update_rule", "OptimizerNetwork", "--model.update_rule.init_args.learning_rate", "0.01"]
    succeeded(metasgd("fit", *TINY, *rule))
    path = "runs/sinusoid/version_0/checkpoints/last.ckpt"
    options = [
        *("--problem", "metasgd.data.problems.Curve", "--problem.init_args.points", "60"),
        *("--network", "metasgd.networks.MLP", "--network.init_args.hidden", "[16]"),
        *("--ckpt_path", path, "--further", json.dumps({"learned again": path})),
        *("--baselines", "[SGD, AdamW]", "--steps", "6", "--eval_every", "3", "--batch_size", "7"),
        *("--seeds", "2", "--trials", "1", "--most_trials", "2"),
    ]
    done = succeeded(metasgd("compare", *options))
    folder = tmp_path / "runs/compare/version_0"
    found = json.loads((folder / "results.json").read_text())
    assert [row["optimizer"] for row in found["rows"]] == ["learned", "learned again", "SGD", "AdamW"]
    for row in found["rows"]:
        assert row["optimizer"] in done.stdout
        assert [trace["steps"] for trace in row["traces"]] == [[0, 3, 6]] * 2
    learned, again, *_ = found["rows"]
    assert learned["test/mse"] == again["test/mse"]
    assert learned["learning_rate"] == 1
    assert (folder / "comparison.png").stat().st_size > 10_000

    succeeded(metasgd("compare", "--config", str(folder / "config.yaml")))
    repeated = json.loads((tmp_path / "runs/compare/version_1/results.json").read_text())
    assert [row["test/mse"] for row in repeated["rows"]] == [row["test/mse"] for row in found["rows"]]

    refused = metasgd("compare", *options, "--trials", "2")
    assert refused.returncode == 2
    assert "trials is 2" in refused.stderr
    assert not (tmp_path / "runs/compare/version_2").exists()
