"""The comparison through the real command line."""

import json
import time

import pytest
from support.programs import Program
from support.runs import TINY, succeeded

from metasgd.cli.main import main

CURVE = [
    *("--problem", "metasgd.data.Curve", "--problem.init_args.points", "60"),
    *("--network", "metasgd.nn.MLP", "--network.init_args.hidden", "[16]", "--batch_size", "7"),
    *("--seeds", "2", "--trials", "1", "--most_trials", "2"),
]


def test_compares_and_writes_table_figure_and_json(metasgd, tmp_path):
    rule = ["--model.update_rule", "OptimizerNetwork", "--model.update_rule.init_args.learning_rate", "0.01"]
    succeeded(metasgd("fit", *TINY, *rule))
    path = "runs/sinusoid/version_0/checkpoints/last.ckpt"
    options = [
        *(*CURVE, "--optimizer_ckpt", path, "--further", json.dumps({"learned again": path})),
        *("--baselines", "[SGD, AdamW]", "--steps", "6", "--eval_every", "3"),
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


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (["--device", "cuda:99"], "--device is cuda:99, on which nothing can be computed here"),
        (["--device", "gpu"], "--device is gpu, on which nothing can be computed here"),
        (["--device", "meta"], "--device is meta, on which nothing can be computed here"),
        (["--further", '{"SGD": "model.ckpt"}'], "further has a learned optimizer of the name SGD"),
        (["--further", '{"learned": "model.ckpt"}'], "further has a learned optimizer of the name learned"),
        (["--further", '{"again": "none.ckpt"}'], "--further again is none.ckpt, which is not there"),
        (["--optimizer_ckpt", "none.ckpt"], "--optimizer_ckpt is none.ckpt, which is not there"),
    ],
)
def test_a_mistake_ends_in_one_message_before_anything_is_built(changed, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.ckpt").write_bytes(b"not read before the mistake is seen")
    assert main(["compare", *CURVE, "--optimizer_ckpt", "model.ckpt", *changed]) == 2
    assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["model.ckpt"]


def test_the_same_command_takes_up_a_comparison_that_was_killed(metasgd, tmp_path):
    succeeded(metasgd("fit", *TINY, "--model.update_rule", "OptimizerNetwork"))
    path = "runs/sinusoid/version_0/checkpoints/last.ckpt"
    options = [*CURVE, "--optimizer_ckpt", path, "--baselines", "[SGD]", "--steps", "120", "--eval_every", "40"]
    cache = tmp_path / "runs/compare/version_0/trainings.json"
    process = Program("compare", *options, cwd=tmp_path)
    deadline = time.monotonic() + 200
    done = []
    while len(done) < 4:  # three tries of the learned optimizer, and its first training that counts
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
        done = json.loads(cache.read_text())["done"] if cache.exists() else []
    process.kill()
    done = json.loads(cache.read_text())["done"]

    resumed = succeeded(metasgd("compare", *options))
    assert f"resumes runs/compare/version_0: {len(done)} trainings are done" in resumed.stdout
    assert not cache.exists()
    whole = succeeded(metasgd("compare", *options))
    assert "resumes" not in whole.stdout
    rows, through = (
        json.loads((tmp_path / f"runs/compare/version_{v}/results.json").read_text())["rows"] for v in (0, 1)
    )
    assert rows[0]["traces"][0]["seconds"] == done[3][3]["seconds"]  # to the last digit: it was not trained again
    for row, other_row in zip(rows, through, strict=True):
        assert row["trials"] == other_row["trials"]
        assert [t["val_loss"] for t in row["traces"]] == [t["val_loss"] for t in other_row["traces"]]
