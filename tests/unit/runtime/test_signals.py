"""What a run does with a signal; real ones are in tests/cli/test_signals.py."""

import signal
from types import SimpleNamespace

import pytest
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from support.slurm import SLURM, in_a_job

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
        with signals.withheld_from_workers():
            signal.raise_signal(signal.SIGTERM)
            workers.append(1)

    with pytest.raises(SystemExit):
        start()
    assert workers
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, []) & {signal.SIGTERM, signal.SIGINT}


@pytest.mark.parametrize(("rank", "code"), [(0, 143), (1, 0)])
def test_only_the_first_process_gives_the_code_where_it_started_the_others(rank, code):
    with pytest.raises(SystemExit) as left:
        leave(trainer_in(LightningEnvironment(), rank), signal.SIGTERM)
    assert left.value.code == code


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
    return in_a_job(tmp_path, monkeypatch)


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


def test_slurms_signal_before_the_run_is_noted_for_it(monkeypatch):
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    signals = StopSignals()
    with signals.listening():
        signal.raise_signal(signal.SIGUSR1)
        signals.note(trainer_in(SLURMEnvironment()))
        assert signals.agreed(trainer_in(SLURMEnvironment())) == signal.SIGUSR1
        signals.obey()  # what is over needs no more time


def test_a_lost_process_is_distinguished_from_other_errors():
    gloo = "[/src/gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:17795. This is typically"
    assert is_lost_process(RuntimeError(gloo))
    assert reason_of_loss(RuntimeError(gloo)) == "Connection closed by peer [127.0.0.1]:17795"
    assert is_lost_process(RuntimeError("Application timeout caused pair closure"))
    assert is_lost_process(torch.distributed.DistNetworkError("The client socket has timed out"))
    assert not is_lost_process(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
