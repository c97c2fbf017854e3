"""Signals to real processes, as a terminal, SLURM and systemd send them; several processes are in tests/distributed."""

import os
import signal
import subprocess
import sys
from functools import partial

import pytest
from support.agents import wait_for
from support.commands import succeeded
from support.programs import Program
from support.runs import TINY
from support.signals import signal_before_the_run, signal_in_fork
from support.slurm import in_a_job

from metasgd.runs.checkpoint_file import read_checkpoint


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    return in_a_job(tmp_path, monkeypatch)


LAST = "runs/sinusoid/version_0/checkpoints/last.ckpt"


LONG = ["--trainer.max_steps", "100000", "--trainer.val_check_interval", "50000", "--data.val_tasks", "20"]


@pytest.mark.parametrize(
    ("command", "fork", "saved_at"),
    [("fit", 1, None), ("fit", 2, 3), ("validate", 1, 8)],
    ids=["workers of the training", "workers of a validation after 4 steps", "workers of a command without training"],
)
def test_a_signal_in_the_middle_of_a_fork_is_not_lost(command, fork, saved_at, tmp_path):
    options = [command, *TINY, "--data.num_workers", "1"]
    if command == "validate":
        succeeded("fit", *TINY, cwd=tmp_path)
        options += ["--ckpt_path", "last"]
    process = Program(*options, cwd=tmp_path, begin=partial(signal_in_fork, fork))
    assert process.wait() == 130, process.said()
    assert "Traceback" not in process.said()
    last = tmp_path / LAST
    assert (read_checkpoint(last)["global_step"] if last.exists() else None) == saved_at


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_all_processes_of_a_run_leaves_its_workers_their_work(number, tmp_path):
    """As a terminal's Ctrl-C, SLURM and systemd send it."""
    command = [sys.executable, "-m", "metasgd", "fit", *TINY, *LONG, "--data.num_workers", "2"]
    command += ["--last_checkpoint.every_n_steps", "20"]
    process = subprocess.Popen(command, cwd=tmp_path, start_new_session=True, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(tmp_path / LAST)
        os.killpg(process.pid, number)
        said = process.communicate(timeout=200)[1]
    finally:
        process.kill()
    assert process.returncode == 128 + number, said
    assert "Traceback" not in said
    assert read_checkpoint(tmp_path / LAST)["global_step"] >= 20
    with pytest.raises(ProcessLookupError):  # no worker is left
        os.killpg(process.pid, 0)


def test_a_requeued_job_resumes_its_run(scontrol, tmp_path):
    """As SLURM would run it twice."""
    job = ["fit", *TINY, "--ckpt_path", "resume", "--trainer.logger.init_args.version", "4711"]
    job += [*LONG, "--last_checkpoint.every_n_steps", "20"]
    process = Program(*job, cwd=tmp_path)
    last = tmp_path / "runs/sinusoid/version_4711/checkpoints/last.ckpt"
    wait_for(last)
    process.send_signal(signal.SIGUSR1)
    assert process.wait() == 128 + signal.SIGUSR1, process.said()
    assert scontrol.read_text() == "requeue 4711\n"
    stopped_at = read_checkpoint(last)["global_step"]
    assert not list(tmp_path.rglob("hpc_ckpt*"))  # Lightning's own, written in the middle of a step
    succeeded(*job, "--trainer.max_steps", str(stopped_at + 3), cwd=tmp_path)
    assert read_checkpoint(last)["global_step"] == stopped_at + 3
    assert [run.name for run in (tmp_path / "runs/sinusoid").iterdir()] == ["version_4711"]


def test_a_job_whose_end_is_announced_before_its_first_step_is_requeued(scontrol, tmp_path):
    job = ["fit", *TINY, *LONG, "--ckpt_path", "resume", "--trainer.logger.init_args.version", "4711"]
    process = Program(*job, cwd=tmp_path, begin=signal_before_the_run)
    assert process.wait() == 128 + signal.SIGUSR1, process.said()
    assert scontrol.read_text() == "requeue 4711\n"
    succeeded(*job, "--trainer.max_steps", "3", cwd=tmp_path)
    last = tmp_path / "runs/sinusoid/version_4711/checkpoints/last.ckpt"
    assert read_checkpoint(last)["global_step"] == 3
