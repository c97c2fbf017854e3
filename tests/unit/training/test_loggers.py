"""Any logger, several, or none: the run has its folder, its checkpoints and its results all the same."""

import csv
import json

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from support.runs import TINY
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from upath import UPath

from metasgd.cli.main import main
from metasgd.runs.folders import Run
from metasgd.training.loggers import Place, in_run, keep_earlier

CSV, BOARD, MLFLOW, WANDB = (
    f"lightning.pytorch.loggers.{name}Logger" for name in ("CSV", "TensorBoard", "MLFlow", "Wandb")
)
FOLDER = {"save_dir": "runs", "name": "mine"}


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["metasgd"])


def logging_to(*loggers):
    """Options of the command line for these, as (class, options)."""
    made = [{"class_path": cls, "init_args": options} for cls, options in loggers]
    return ["--trainer.logger", json.dumps(made)]


def succeeded(*arguments):
    assert main([str(a) for a in arguments]) == 0


def rows(file):
    with file.open() as text:
        return list(csv.DictReader(text))


def assert_whole(run):
    assert {p.name for p in (run / "checkpoints").iterdir()} >= {"last.ckpt", "best.ckpt"}
    assert (run / "config.yaml").is_file()


def curve(table, name):
    return [(int(row["step"]), float(row[name])) for row in table if row.get(name)]


def test_without_a_logger_a_run_is_saved_and_tested_all_the_same(tmp_path, capsys):
    nowhere = ["--trainer.logger", "false", "--run.name", "mine"]
    succeeded("fit", *TINY, *nowhere)
    run = tmp_path / "runs/mine/version_0"
    assert_whole(run)
    printed = capsys.readouterr().out
    assert "written to runs/mine/version_0: last.ckpt after 8 outer steps, best.ckpt with val/mse" in printed
    succeeded("test", *TINY, *nowhere, "--ckpt_path", "best")
    assert json.loads((run / "results.json").read_text())["n_tasks"] == 40
    assert [p.name for p in run.parent.iterdir()] == ["version_0"]
    assert not list(tmp_path.rglob("events.out*"))


def test_a_csv_file_and_tensorboard_have_the_same_curves_and_resume(tmp_path):
    both = logging_to((CSV, {**FOLDER, "prefix": "mine"}), (BOARD, {**FOLDER, "sub_dir": "board", "prefix": "mine"}))
    succeeded("fit", *TINY, *both, "--trainer.max_steps", "6")
    succeeded("fit", *TINY, *both, "--trainer.max_steps", "12", "--ckpt_path", "last")
    run = tmp_path / "runs/mine/version_0"
    assert_whole(run)
    assert [p.name for p in run.parent.iterdir()] == ["version_0"]
    table = rows(run / "metrics.csv")
    events = EventAccumulator(str(run / "board")).Reload()
    for name, steps in (("mine-train/loss", range(12)), ("mine-val/mse", [3, 7, 11])):
        found = curve(table, name)
        assert [step for step, _ in found] == list(steps)
        shown = {e.step: e.value for e in events.Scalars(name)}
        assert dict(found) == pytest.approx(shown)
    assert [e.step for e in events.Images("mine-curves")] == [3, 7, 11]
    before = len(table)
    succeeded("test", *TINY, *both, "--ckpt_path", "best")  # which is logged as well, after the rest
    assert len(rows(run / "metrics.csv")) == before + 1


def test_mlflow_has_the_curves_and_the_figures(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    store = tmp_path / "store"
    options = {"experiment_name": "few", "tracking_uri": f"file:{store}"}
    succeeded("fit", *TINY, *logging_to((MLFLOW, options)), "--run.name", "mine")
    assert_whole(tmp_path / "runs/mine/version_0")
    [losses] = store.rglob("metrics/train/loss")
    assert len(losses.read_text().splitlines()) == 8
    assert [p.name for p in sorted(store.rglob("artifacts/curves/*.png"))] == ["step_3.png", "step_7.png"]
    assert list(store.rglob("params/model/inner_steps")) or list(store.rglob("params/model.inner_steps"))


def test_weights_and_biases_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    succeeded("fit", *TINY, *logging_to((WANDB, {"project": "few", "offline": True})), "--run.name", "mine")
    assert_whole(tmp_path / "runs/mine/version_0")
    assert list(tmp_path.rglob("media/images/curves_*.png"))


def test_checkpoints_of_the_user_s_are_the_run_s_too(tmp_path, capsys):
    mine = {
        "class_path": "ModelCheckpoint",
        "init_args": {"filename": "at_{step}", "every_n_train_steps": 3, "save_top_k": -1},
    }
    succeeded(
        "fit", *TINY, "--trainer.logger", "false", "--trainer.callbacks", json.dumps([mine]), "--run.name", "mine"
    )
    run = tmp_path / "runs/mine/version_0"
    saved = {p.name for p in (run / "checkpoints").iterdir()}
    assert saved == {"last.ckpt", "best.ckpt", "at_step=3.ckpt", "at_step=6.ckpt"}
    printed = capsys.readouterr().out
    assert "best.ckpt with val/mse" in printed
    assert "--ckpt_path runs/mine/version_0/checkpoints/best.ckpt" in printed
    whole = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    again = ["--trainer.callbacks", json.dumps([mine]), "--ckpt_path", run / "checkpoints/at_step=3.ckpt"]
    succeeded("fit", *TINY, "--trainer.logger", "false", *again)
    resumed = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    assert all(torch.equal(t, whole["state_dict"][n]) for n, t in resumed["state_dict"].items())


def test_a_dry_run_leaves_nothing(tmp_path, capsys):
    succeeded("fit", *TINY, "--trainer.fast_dev_run", "3")
    assert "3 outer steps and a validation, of which nothing is saved" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


BOARD_OPTIONS = {"class_path": BOARD, "init_args": {**FOLDER, "version": 3}}


@pytest.mark.parametrize(
    ("loggers", "run", "root", "expected"),
    [
        ([], {}, None, ("runs", "metasgd", None, "run.save_dir")),
        ([], {}, "there", ("there", "metasgd", None, "run.save_dir")),
        ([], {"name": "a", "version": 2}, None, ("runs", "a", 2, "run.save_dir")),
        ([BOARD_OPTIONS], {}, "there", ("runs", "mine", 3, "trainer.logger.init_args.save_dir")),
        ([BOARD_OPTIONS], {"save_dir": "x", "version": 4}, None, ("x", "mine", 4, "run.save_dir")),
        (
            [{"class_path": MLFLOW, "init_args": {"save_dir": "y"}}, BOARD_OPTIONS],
            {},
            None,
            ("runs", "mine", 3, "trainer.logger.init_args.save_dir"),
        ),
    ],
)
def test_where_a_run_is_to_be(loggers, run, root, expected):
    assert Place.of(loggers, run, root) == Place(*expected)


def test_options_of_a_logger_stay_where_the_run_has_its_own_folder(tmp_path):
    run = Run(UPath(tmp_path), "mine", 5)
    options = {
        "save_dir": "elsewhere",
        "name": "other",
        "version": None,
        "sub_dir": "board",
        "prefix": "p",
        "max_queue": 3,
    }
    board = in_run(TensorBoardLogger(**options), options, run, resumed_at=7)
    assert board.log_dir == str(run.folder / "board")
    assert (board._prefix, board._kwargs["max_queue"], board._kwargs["purge_step"]) == ("p", 3, 7)


def test_rows_of_before_stay_in_a_csv_file(tmp_path):
    run = Run(UPath(tmp_path), "mine", 0)

    def logger():
        return in_run(CSVLogger("elsewhere"), {"save_dir": "elsewhere"}, run, None)

    first = logger()
    for step in range(6):
        first.log_metrics({"a": step / 2} if step % 2 else {"b": 1.0}, step)
    first.save()
    second = logger()
    with pytest.warns(UserWarning, match="not empty"):
        keep_earlier([second], run, resumed_at=4)
    second.log_metrics({"c": 3.0}, 4)
    second.save()
    table = rows(tmp_path / "mine/version_0/metrics.csv")
    assert [int(row["step"]) for row in table] == [0, 1, 2, 3, 4]
    assert curve(table, "a") == [(1, 0.5), (3, 1.5)]
    assert curve(table, "c") == [(4, 3.0)]
