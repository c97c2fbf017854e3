"""``compare --suite`` in this process, on a suite of two workloads that take no time."""

import csv
import json
from dataclasses import replace
from functools import partial

import pytest
from support.runs import succeeded

from metasgd.cli.main import main
from metasgd.meta.objectives import OBJECTIVES
from metasgd.nn.networks import MLP
from metasgd.supervised.suite.data import SIZES, Table
from metasgd.supervised.suite.workload import Workload
from metasgd.supervised.suite.workloads import SUITES
from metasgd.supervised.trainer import SupervisedTrainer


@pytest.fixture(autouse=True)
def tiny_suite(monkeypatch):
    for split in SIZES:
        monkeypatch.setitem(SIZES, split, 60)
    made = [
        Workload(
            name,
            "one of two",
            partial(MLP, 4, [8], outputs),
            Table(seed=seed, n_features=4, n_classes=n_classes, rows=60),
            OBJECTIVES[loss],
            steps=6,
            batch_size=10,
        )
        for name, seed, outputs, n_classes, loss in (
            ("first", 1, 3, 3, "cross_entropy"),
            ("second", 2, 1, None, "mse"),
        )
    ]
    monkeypatch.setitem(SUITES, "tiny", tuple(made))


OPTIONS = ["--suite", "tiny", "--contenders", "learned,AdamW", "--seeds", "2", "--trials", "3", "--most_trials", "3"]


def found_in(folder):
    return json.loads((folder / "results.json").read_text())


def test_a_suite_that_is_killed_is_resumed_by_the_same_command_to_the_same_results(metasgd, tmp_path, monkeypatch):
    class Killed(Exception):
        pass

    train, trained = SupervisedTrainer.train, []

    def few(self, *arguments):
        if len(trained) == 9:
            raise Killed
        trained.append(arguments)
        return train(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(SupervisedTrainer, "train", few)
        with pytest.raises(Killed):
            metasgd("compare", *OPTIONS)
    resumed = succeeded(metasgd("compare", *OPTIONS))
    assert "resumes runs/suite_tiny/version_0: trainings done: 9" in resumed.stdout
    config = str(tmp_path / "runs/suite_tiny/version_0/config.yaml")
    whole = succeeded(metasgd("compare", "--config", config, "--timing_rounds", "0", "--name", "again"))
    assert "resumes" not in whole.stdout
    first, second = (found_in(tmp_path / f"runs/{name}/version_0") for name in ("suite_tiny", "again"))
    assert first["scores"] == second["scores"]
    for row, again in zip(first["rows"], second["rows"], strict=True):
        assert row["trials"] == again["trials"]
        assert [t["val_loss"] for t in row["traces"]] == [t["val_loss"] for t in again["traces"]]
        assert row["seconds_per_step"] > 0
    assert {(row["workload"], row["contender"]) for row in first["rows"]} == {
        (workload, contender) for workload in ("first", "second") for contender in ("learned", "AdamW", "AdamW_tuned")
    }
    for name in ("learned", "AdamW_tuned", "second", "bytes/parameter"):
        assert name in resumed.stdout
    with (tmp_path / "runs/suite_tiny/version_0/results.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [float(entry["test_loss"]) for entry in table] == [row["test_loss"] for row in first["rows"]]
    tuned = [row for row in first["rows"] if row["contender"] == "AdamW_tuned"]
    assert all(row["trials"][f"{row['learning_rate']:g}"] == min(row["trials"].values()) for row in tuned)


def test_more_seeds_and_contenders_are_added_to_what_is_trained(metasgd, tmp_path, monkeypatch):
    train, trained = SupervisedTrainer.train, []

    def counted(self, candidate, lr, seed):
        trained.append((candidate.name.partition(",")[0], seed))
        return train(self, candidate, lr, seed)

    monkeypatch.setattr(SupervisedTrainer, "train", counted)
    without_time = [*OPTIONS, "--timing_rounds", "0", "--only", "first"]
    succeeded(metasgd("compare", *without_time, "--seeds", "1", "--contenders", "learned"))
    first = found_in(tmp_path / "runs/suite_tiny/version_0")
    assert trained == [("learned on first", 1), *[("AdamW_tuned on first", 0)] * 3, ("AdamW_tuned on first", 1)]
    trained.clear()
    succeeded(metasgd("compare", *without_time))
    found = found_in(tmp_path / "runs/suite_tiny/version_0")
    assert trained == [
        (f"{c} on first", seed) for c, seed in (("learned", 2), ("AdamW", 1), ("AdamW", 2), ("AdamW_tuned", 2))
    ]
    for row in first["rows"]:
        (again,) = [r for r in found["rows"] if r["contender"] == row["contender"]]
        assert (again["trials"], again["traces"][0]) == (row["trials"], row["traces"][0])
    trained.clear()
    mine = ["--further", '{"mine": "optimizer_network_long"}']  # an option of its own: it need not be named again
    succeeded(metasgd("compare", *without_time, "--contenders", "learned", *mine, "--seeds", "1"))
    assert trained == [("mine on first", 1)]
    trained.clear()
    more = SUITES["tiny"][0]
    monkeypatch.setitem(SUITES, "tiny", (replace(more, steps=7), *SUITES["tiny"][1:]))
    succeeded(metasgd("compare", *without_time, "--seeds", "1", "--contenders", "learned"))
    assert len(trained) == 5  # another workload, by the name of the first


def test_what_is_missing_is_left_out_in_one_line(metasgd, caplog, monkeypatch, tmp_path):
    monkeypatch.setattr(
        "metasgd.supervised.suite.contenders.find_spec", lambda name: None if name == "prodigyopt" else 1
    )
    options = [
        "--suite",
        "tiny",
        "--only",
        "[second]",
        "--contenders",
        "Prodigy,AdamW",
        "--seeds",
        "1",
        "--trials",
        "1",
    ]
    succeeded(metasgd("compare", *options, "--timing_rounds", "0"))
    line = "Prodigy is left out: it needs the package prodigyopt (pip install 'metasgd[suite]')"
    assert caplog.messages.count(line) == 1
    found = found_in(tmp_path / "runs/suite_tiny/version_0")
    assert found["terms"]["left_out"] == [line]
    assert [row["contender"] for row in found["rows"]] == ["AdamW", "AdamW_tuned"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (["--suite", "smal"], "--suite has smal: there is small, choosing, tiny. Did you mean small"),
        (["--only", "frist"], "--only has frist: there is first, second. Did you mean first?"),
        (["--only", "first,"], "--only has an empty name: there is first, second."),
        (["--only", "[]"], "--only is empty: leave it out for all, or name some of first, second"),
        (["--contenders", "adamw"], "Did you mean AdamW"),
        (["--further", '{"Muon": "model.ckpt"}'], "--further has an optimizer of the name Muon, which is another's"),
        (["--trials", "2"], "trials is 2: an odd number is needed"),
        (["--seeds", "0"], "seeds is 0: at least 1 is needed"),
        (["--optimizer_ckpt", "none.ckpt"], "--optimizer_ckpt is none.ckpt, which is not there"),
        (["--steps", "3"], "no such option: --steps"),
    ],
)
def test_a_mistake_ends_in_one_message_before_anything_is_built(changed, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        code = main(["compare", *OPTIONS, *changed])
    except SystemExit as end:
        code = end.code
    assert code == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_whole_of_the_real_choosing_suite_runs(metasgd, tmp_path, monkeypatch):
    monkeypatch.undo()
    options = ["--suite", "choosing", "--seeds", "1", "--trials", "1", "--most_trials", "1", "--timing_rounds", "1"]
    monkeypatch.chdir(tmp_path)
    assert main(["compare", *options]) == 0
    found = found_in(tmp_path / "runs/suite_choosing/version_0")
    ratios = {row["contender"]: row["loss_ratio"] for row in found["rows"]}
    assert {"learned", "learned_loss_only", "AdamW", "SGD_tuned"} <= set(ratios)
    assert all(
        row["val_loss"] < row["traces"][0]["val_loss"][0] for row in found["rows"] if row["contender"] == "AdamW"
    )
