"""Runs and their folders through the command line: what other jobs, users and disks do to them."""

import gc
import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from lightning.pytorch.utilities import rank_zero_only
from support.processes import holder_of
from support.programs import Program
from support.runs import TINY
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from upath import UPath

from metasgd.cli.main import main
from metasgd.runs.checkpoint_file import read_checkpoint
from metasgd.runs.folders import Run
from metasgd.training.callbacks.checkpoints import LastCheckpoint

FIT = [sys.executable, "-m", "metasgd", "fit", *TINY]
SAVE_DIR = "--trainer.logger.init_args.save_dir"
VERSION = "--trainer.logger.init_args.version"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["metasgd"])
    return tmp_path


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_run_that_another_process_trains_is_left_to_it(folder, capsys):
    assert main(["fit", *TINY, VERSION, "7"]) == 0
    run = Run(UPath(folder / "runs"), "sinusoid", 7)
    longer = ["fit", *TINY, "--trainer.max_steps", "12"]
    with holder_of(run):
        before = contents(folder)
        for resumed in (["last"], ["resume", VERSION, "7"], [str(run.checkpoint("best"))]):
            capsys.readouterr()
            assert main([*longer, "--ckpt_path", *resumed]) == 2
            said = capsys.readouterr().err
            assert said.count("error:") == 1
            assert "version_7 is being trained at this moment, by process" in said
        assert contents(folder) == before
        assert main(["test", *TINY, "--ckpt_path", "best"]) == 0  # which changes nothing of the training's
    assert main([*longer, "--ckpt_path", "last"]) == 0  # that process was killed
    assert read_checkpoint(run.checkpoint("last"))["global_step"] == 12


def test_runs_started_in_one_moment_each_have_a_folder(folder):
    """Real processes: three of one name, and two of one version."""
    jobs = [["fit", *TINY]] * 3 + [["fit", *TINY, "--ckpt_path", "resume", VERSION, "41"]] * 2
    started = [Program(*job, cwd=folder) for job in jobs]
    codes = [process.wait() for process in started]
    said = [process.said() for process in started]
    assert codes[:3] == [0, 0, 0], said
    runs = {path.name: path for path in (folder / "runs" / "sinusoid").iterdir()}
    assert len(runs) == 4
    for run in runs.values():
        assert len(list(run.glob("events.*"))) == (2 if codes[3:] == [0, 0] and run.name == "version_41" else 1)
        steps = [e.step for e in EventAccumulator(str(run)).Reload().Scalars("train/loss")]
        assert steps == list(range(8))
    # one after the other, the second finds a finished run; at once, the second is refused
    assert sorted(codes[3:]) in ([0, 0], [0, 2])
    for code, words in zip(codes[3:], said[3:], strict=True):
        assert "Traceback" not in words
        assert code == 0 or words.count("error:") == 1


def test_a_variable_in_the_folders_name_is_filled_in_everywhere(folder, monkeypatch, capsys, caplog):
    monkeypatch.setenv("SCRATCH", str(folder / "scratch"))
    job = ["fit", *TINY, SAVE_DIR, "$SCRATCH/runs", "--trainer.logger.init_args.name", "of-$JOB"]
    monkeypatch.setenv("JOB", "4711")
    for steps in ("4", "8"):
        command = [*job, "--trainer.max_steps", steps, "--ckpt_path", "resume", VERSION, "3"]
        assert main([*command, "--model.outer.scheduler", "null"]) == 0
    assert "last.ckpt of outer step 4" in caplog.text
    [run] = (folder / "scratch/runs/of-4711").iterdir()
    assert read_checkpoint(run / "checkpoints/last.ckpt")["global_step"] == 8
    monkeypatch.delenv("SCRATCH")
    assert main(job) == 2
    assert "the environment has no variable SCRATCH" in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == ["scratch"]


@pytest.mark.parametrize("variable", ["RANK", "LOCAL_RANK", "SLURM_PROCID"])
def test_a_rank_left_in_the_environment_does_not_silence_the_only_process(variable, folder, monkeypatch, caplog):
    monkeypatch.setenv(variable, "1")
    monkeypatch.setattr(rank_zero_only, "rank", 1)  # as Lightning sets it when it is imported
    assert main(["fit", *TINY]) == 0
    said = [record.getMessage() for record in caplog.records if "this run has one process" in record.getMessage()]
    assert len(said) == 1
    assert f"{variable} 1" in said[0]
    run = folder / "runs/sinusoid/version_0"
    assert [e.step for e in EventAccumulator(str(run)).Reload().Scalars("train/loss")] == list(range(8))
    assert read_checkpoint(run / "checkpoints/last.ckpt")["global_step"] == 8
    assert (run / "config.yaml").is_file()


def test_tasks_of_srun_that_would_each_train_alone_are_refused(folder, monkeypatch, capsys):
    variables = {"JOB_NAME": "interactive", "STEP_NUM_TASKS": "2", "NTASKS": "2", "PROCID": "0", "JOB_ID": "7"}
    for name, value in variables.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert main(["fit", *TINY]) == 2
    assert "srun started 2 tasks in a job named interactive" in capsys.readouterr().err
    assert not list(folder.iterdir())
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")  # the shell that salloc opens in an allocation of two
    assert main(["fit", *TINY]) == 0


class Then(LastCheckpoint):
    """Does something to the run's folder after its third step."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx == 2:
            self.act(Path(trainer.log_dir))


def delete(run):
    shutil.rmtree(run)


def move(run):
    run.rename(run.parent / "moved")


@pytest.mark.parametrize("act", [delete, move])
def test_a_run_whose_folder_goes_ends_in_one_message_and_makes_no_other(act, folder, monkeypatch, capsys):
    with monkeypatch.context() as patched:
        patched.setattr(LastCheckpoint, "on_train_batch_end", Then.on_train_batch_end, raising=False)
        patched.setattr(LastCheckpoint, "act", staticmethod(act), raising=False)
        assert main(["fit", *TINY, "--last_checkpoint.every_n_steps", "1"]) == 2
    said = capsys.readouterr().err
    assert said.count("error:") == 1
    assert "version_0 is not there any more: it was deleted, or moved" in said
    assert "Traceback" not in said
    left = [path.name for path in (folder / "runs/sinusoid").iterdir()]
    assert left == ([] if act is delete else ["moved"])
    if act is move:
        moved = folder / "runs/sinusoid/moved/checkpoints/last.ckpt"
        assert main(["fit", *TINY, "--ckpt_path", str(moved)]) == 0


def test_a_test_writes_its_results_whatever_becomes_of_its_output(folder):
    assert main(["fit", *TINY]) == 0
    run = folder / "runs/sinusoid/version_0"
    command = [sys.executable, "-m", "metasgd", "test", *TINY, "--ckpt_path", "best"]
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    done = subprocess.run(command, capture_output=True, env=ascii_only, check=False)
    assert done.returncode == 0, done.stderr
    assert rb"\xb1 95 %" in done.stdout
    expected = json.loads((run / "results.json").read_text())
    (run / "results.json").unlink()
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 2
    assert done.stderr.count(b"error:") == 1
    assert b"No space left on device" in done.stderr
    assert b"Traceback" not in done.stderr
    assert json.loads((run / "results.json").read_text()) == expected


def test_a_learner_that_diverges_is_trained_to_its_end_and_resumed(folder):
    options = ["--model.update_rule.init_args.init", "1e30"]
    assert main(["fit", *TINY, *options]) == 0
    run = folder / "runs/sinusoid/version_0"
    shown = EventAccumulator(str(run)).Reload()
    rates = [e.histogram_value for tag in shown.Tags()["histograms"] for e in shown.Histograms(tag)]
    assert rates
    assert all(rate.max == pytest.approx(1e30) for rate in rates)
    assert main(["fit", *TINY, *options, "--ckpt_path", "last"]) == 0


def kill_workers(run):
    for worker in multiprocessing.active_children():
        os.kill(worker.pid, signal.SIGKILL)


# torch raises at SIGCHLD wherever the process stands, also where it opens files to count those that are left
@pytest.mark.filterwarnings("ignore:Exception ignored in. <_io.FileIO:pytest.PytestUnraisableExceptionWarning")
def test_a_killed_worker_ends_in_one_message_and_the_run_resumes(folder, monkeypatch, capsys):
    options = ["--data.num_workers", "1", "--trainer.max_steps", "40", "--trainer.val_check_interval", "40"]
    with monkeypatch.context() as patched:
        patched.setattr(LastCheckpoint, "on_train_batch_end", Then.on_train_batch_end, raising=False)
        patched.setattr(LastCheckpoint, "act", staticmethod(kill_workers), raising=False)
        assert main(["fit", *TINY, *options, "--last_checkpoint.every_n_steps", "1"]) == 1
    gc.collect()  # such files belong to this test, not to the one during which they would be collected
    said = capsys.readouterr().err
    assert said.count("error:") == 1
    assert "a process that fetches batches (data.num_workers) was ended from outside" in said
    assert "Traceback" not in said
    assert main(["fit", *TINY, *options, "--ckpt_path", "last"]) == 0
    assert read_checkpoint(folder / "runs/sinusoid/version_0/checkpoints/last.ckpt")["global_step"] == 40


def with_files(n, *command):
    """A command in a process of its own that may have so many files open."""
    return subprocess.run(["bash", "-c", f'ulimit -n {n}; exec "$@"', "-", *command], capture_output=True, check=False)


def test_few_open_files_are_counted_before_a_run_has_a_folder(folder):
    refused = with_files(64, *FIT, "--data.num_workers", "4")
    assert refused.returncode == 2, refused.stderr
    assert refused.stderr.count(b"error:") == 1
    assert b"this process may have 64 files open (ulimit -n), which is too few" in refused.stderr
    assert not (folder / "runs").exists()
    least = int(refused.stderr.split(b"at least to ")[1].split(b",")[0])
    done = with_files(least, *FIT, "--data.num_workers", "4")  # which is true
    assert done.returncode == 0, done.stderr
    assert b"batches are passed by names in shared memory" in done.stderr


def test_a_port_that_another_program_has_is_named(folder):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        two = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
        done = subprocess.run([*FIT, *two], capture_output=True, text=True, env=environment, check=False, timeout=300)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("error") == 1
    assert f"error: the port {port} of this host" in done.stderr
    assert not (folder / "runs/sinusoid/version_0").exists()


def test_a_full_disk_is_said_once_by_two_processes(folder):
    """A limit on the size of files stands for it."""
    two = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
    command = ["bash", "-c", 'ulimit -f 30; exec "$@"', "-", *FIT, *two]
    whole_modules = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}  # Python would cut off a compiled one there
    done = subprocess.run(command, capture_output=True, text=True, env=whole_modules, check=False, timeout=300)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("error") == 1
    assert "last.ckpt could not be written (File too large)" in done.stderr
