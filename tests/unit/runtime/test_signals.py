"""What a run does when it is told to stop; two processes are in test_two_processes.py."""

import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from support.agents import wait_for
from support.runs import TINY

from metasgd.runs.folders import read_checkpoint
from metasgd.runtime.signals import ONE_MESSAGE, StopSignals, is_lost_process, leave, reason_of_loss, requeue_signal


def trainer_in(environment=None, rank=0):
    return SimpleNamespace(
        world_size=1,
        received_sigterm=False,
        local_rank=rank,
        is_global_zero=rank == 0,
        _accelerator_connector=SimpleNamespace(cluster_environment=environment),
    )


@pytest.fixture
def signals():
    """Listening ones."""
    signals = StopSignals()
    with signals.listening():
        yield signals


STOPPING = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])


@STOPPING
def test_with_nothing_to_save_a_signal_ends_the_program(signals, number):
    with pytest.raises(SystemExit) as left:
        signal.raise_signal(number)
    assert left.value.code == 128 + number


@STOPPING
def test_in_a_run_a_signal_is_noted_and_interrupts_nothing(signals, number):
    signals.note(trainer_in())
    assert signals.agreed(trainer_in()) == 0
    signal.raise_signal(number)
    assert signals.agreed(trainer_in()) == number
    with pytest.raises(SystemExit) as left:  # the run is over, and what follows need not be waited for
        signals.obey()
    assert left.value.code == 128 + number


def test_handlers_of_before_are_there_again_afterwards():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]
    signals = StopSignals()
    with signals.listening():
        signals.note(trainer_in(SLURMEnvironment()))
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)] == before


def test_a_ctrl_c_that_arrives_twice_is_one(signals, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("metasgd.runtime.signals.time.monotonic", lambda: now[0])
    signals.note(trainer_in())
    for _ in range(2):
        signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGTERM)  # no more does a scheduler's that repeats itself
    now[0] += 2 * ONE_MESSAGE
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(SystemExit) as left:
        signal.raise_signal(signal.SIGINT)
    assert left.value.code == 130


def test_a_signal_while_workers_are_started_is_obeyed_thereafter(signals):
    workers = []

    def start():
        with signals.kept_from_workers():
            signal.raise_signal(signal.SIGTERM)
            workers.append(1)

    with pytest.raises(SystemExit):
        start()
    assert workers
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, []) & {signal.SIGTERM, signal.SIGINT}


LAST = "runs/sinusoid/version_0/checkpoints/last.ckpt"
LONG = ["--trainer.max_steps", "100000", "--trainer.val_check_interval", "50000", "--data.val_tasks", "20"]

SIGNAL_IN_A_FORK = """
import os, signal, sys
from metasgd.cli.main import main

def signal_myself():
    global forks
    forks -= 1
    if forks == 0:
        os.kill(os.getpid(), signal.SIGINT)

forks = int(sys.argv.pop(1))
os.register_at_fork(after_in_parent=signal_myself)
sys.exit(main())
"""
"""Python prints what is raised there, and goes on."""


@pytest.mark.parametrize(
    ("command", "fork", "saved_at"),
    [("fit", 1, None), ("fit", 2, 3), ("validate", 1, 8)],
    ids=["workers of the training", "workers of a validation after 4 steps", "workers of a command without training"],
)
def test_a_signal_in_the_middle_of_a_fork_is_not_lost(command, fork, saved_at, tmp_path):
    options = [command, *TINY, "--data.num_workers", "1"]
    if command == "validate":
        subprocess.run([sys.executable, "-m", "metasgd", "fit", *TINY], cwd=tmp_path, check=True, capture_output=True)
        options += ["--ckpt_path", "last"]
    done = subprocess.run(
        [sys.executable, "-c", SIGNAL_IN_A_FORK, str(fork), *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    last = tmp_path / LAST
    assert (read_checkpoint(last)["global_step"] if last.exists() else None) == saved_at


@STOPPING
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


@pytest.mark.parametrize(("rank", "code"), [(0, 143), (1, 0)])
def test_only_the_first_process_gives_the_code_where_it_started_the_others(rank, code):
    with pytest.raises(SystemExit) as left:
        leave(trainer_in(LightningEnvironment(), rank), signal.SIGTERM)
    assert left.value.code == code


SLURM = {"SLURM_JOB_ID": "4711", "SLURM_NTASKS": "1", "SLURM_JOB_NAME": "metasgd", "SLURM_PROCID": "0"}
SLURM |= {"SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_STEP_ID": "0", "SLURM_NODELIST": "localhost"}


def test_only_slurm_requeues_and_only_if_it_may(monkeypatch):
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    assert requeue_signal(trainer_in()) is None
    assert requeue_signal(trainer_in(LightningEnvironment())) is None
    assert requeue_signal(trainer_in(SLURMEnvironment())) == signal.SIGUSR1
    assert requeue_signal(trainer_in(SLURMEnvironment(requeue_signal=signal.SIGHUP))) == signal.SIGHUP
    assert requeue_signal(trainer_in(SLURMEnvironment(auto_requeue=False))) is None


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """A scontrol on the PATH that notes what it is called with, and ends with the code in the file beside it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "scontrol"
    program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\nexit $(cat {tmp_path}/code 2>/dev/null || echo 0)\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    return tmp_path / "calls"


@pytest.mark.parametrize(
    ("array", "job"), [({}, "4711"), ({"SLURM_ARRAY_JOB_ID": "4700", "SLURM_ARRAY_TASK_ID": "3"}, "4700_3")]
)
def test_a_job_and_a_task_of_an_array_are_requeued(scontrol, monkeypatch, array, job):
    for name, value in array.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        leave(trainer_in(SLURMEnvironment()), signal.SIGUSR1)
    assert scontrol.read_text() == f"requeue {job}\n"
    with pytest.raises(SystemExit):  # somebody cancels the job
        leave(trainer_in(SLURMEnvironment()), signal.SIGTERM)
    assert scontrol.read_text() == f"requeue {job}\n"


def test_a_job_that_cannot_be_requeued_says_so(scontrol, tmp_path, capsys):
    (tmp_path / "code").write_text("1")
    with pytest.raises(SystemExit):
        leave(trainer_in(SLURMEnvironment()), signal.SIGUSR1)
    assert "the job 4711 could not be requeued" in capsys.readouterr().err


def test_a_requeued_job_goes_on_with_its_run(scontrol, tmp_path):
    """The real command line, as SLURM would run it twice."""
    job = ["-m", "metasgd", "fit", *TINY, "--ckpt_path", "resume", "--trainer.logger.init_args.version", "4711"]
    command = [sys.executable, *job, *LONG, "--last_checkpoint.every_n_steps", "20"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    last = tmp_path / "runs/sinusoid/version_4711/checkpoints/last.ckpt"
    wait_for(last)
    process.send_signal(signal.SIGUSR1)
    said = process.communicate(timeout=200)[1]
    assert process.returncode == 128 + signal.SIGUSR1, said
    assert scontrol.read_text() == "requeue 4711\n"
    stopped_at = read_checkpoint(last)["global_step"]
    assert not list(tmp_path.rglob("hpc_ckpt*"))  # Lightning's own, written in the middle of a step
    subprocess.run([*command, "--trainer.max_steps", str(stopped_at + 3)], cwd=tmp_path, check=True)
    assert read_checkpoint(last)["global_step"] == stopped_at + 3
    assert [run.name for run in (tmp_path / "runs/sinusoid").iterdir()] == ["version_4711"]


def test_slurms_signal_before_the_run_is_noted_for_it(monkeypatch):
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    signals = StopSignals()
    with signals.listening():
        signal.raise_signal(signal.SIGUSR1)
        signals.note(trainer_in(SLURMEnvironment()))
        assert signals.agreed(trainer_in(SLURMEnvironment())) == signal.SIGUSR1
        signals.obey()  # what is over needs no more time


SIGNAL_BEFORE_THE_RUN = """
import os, signal, sys
from metasgd.cli import main as cli

class Announced(cli.MetaSGDCLI):
    def __init__(self, *arguments):
        os.kill(os.getpid(), signal.SIGUSR1)
        super().__init__(*arguments)

cli.MetaSGDCLI = Announced
sys.exit(cli.main())
"""


def test_a_job_whose_end_is_announced_before_its_first_step_is_requeued(scontrol, tmp_path):
    job = ["fit", *TINY, *LONG, "--ckpt_path", "resume", "--trainer.logger.init_args.version", "4711"]
    command = [sys.executable, "-c", SIGNAL_BEFORE_THE_RUN, *job]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 128 + signal.SIGUSR1, done.stderr
    assert scontrol.read_text() == "requeue 4711\n"
    subprocess.run(
        [sys.executable, "-m", "metasgd", *job, "--trainer.max_steps", "3"], cwd=tmp_path, check=True, timeout=200
    )
    last = tmp_path / "runs/sinusoid/version_4711/checkpoints/last.ckpt"
    assert read_checkpoint(last)["global_step"] == 3


def test_a_lost_process_is_told_from_other_errors():
    gloo = "[/src/gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:17795. This is typically"
    assert is_lost_process(RuntimeError(gloo))
    assert reason_of_loss(RuntimeError(gloo)) == "Connection closed by peer [127.0.0.1]:17795"
    assert is_lost_process(RuntimeError("Application timeout caused pair closure"))
    assert is_lost_process(torch.distributed.DistNetworkError("The client socket has timed out"))
    assert not is_lost_process(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
