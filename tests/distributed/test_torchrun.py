"""Processes that torchrun starts, on one host and on two: the real command lines, on 127.0.0.1."""

import os
import signal
from pathlib import Path

import pytest
import torch
from support.agents import Agent, free_port, succeeded, wait_for, worker
from support.hosts import DOUBLE, JOB, JOB_RUN, close
from support.runs import TINY, scalars, state

pytestmark = pytest.mark.slow  # each starts and kills several trainings


def host(rank, port, *arguments, cwd):
    """The agent of one host of two; torchrun knows it by its rank among the hosts."""
    where = ["--nnodes", 2, "--node-rank", rank, "--nproc-per-node", 1, "--master-addr", "127.0.0.1"]
    return Agent(*where, "--master-port", port, "-m", "metasgd", *arguments, cwd=cwd)


@pytest.fixture(scope="module")
def two_hosts(tmp_path_factory):
    """A folder with a run of two hosts, of one process each."""
    folder = tmp_path_factory.mktemp("hosts")
    port = free_port()
    succeeded(*(host(rank, port, "fit", *TINY, *DOUBLE, *JOB, cwd=folder) for rank in (0, 1)))
    return folder


def test_two_hosts_train_as_one_process_and_save_once(two_hosts, metasgd, tmp_path):
    done = metasgd("fit", *TINY, *DOUBLE)
    assert done.returncode == 0, done.stderr
    alone, together = tmp_path / "runs/sinusoid/version_0", two_hosts / JOB_RUN
    for name in ("last", "best"):
        a, b = (state(run / "checkpoints" / f"{name}.ckpt") for run in (alone, together))
        assert close(a["state_dict"], b["state_dict"])
        assert a["global_step"] == b["global_step"]
    names = {"checkpoints", "checkpoints/last.ckpt", "checkpoints/best.ckpt", "config.yaml", "hparams.yaml"}
    found = {str(p.relative_to(together)) for p in together.rglob("*")}
    assert {p for p in found if not p.startswith("events.")} == names
    for tag in ("train/loss", "val/mse"):
        (steps, a), (same_steps, b) = (zip(*scalars(run, tag), strict=True) for run in (alone, together))
        assert steps == same_steps
        assert a == pytest.approx(b, rel=1e-6)  # written in float32


def test_a_run_of_two_hosts_resumes_with_one_process(two_hosts, metasgd):
    path = str(two_hosts / JOB_RUN / "checkpoints" / "last.ckpt")
    elsewhere = ["--trainer.logger.init_args.save_dir", "here", "--trainer.logger.init_args.version", "1"]
    done = metasgd("fit", *TINY, *DOUBLE, *elsewhere, "--trainer.max_steps", "10", "--ckpt_path", path)
    assert done.returncode == 0, done.stderr
    assert "max_steps=10" in done.stderr


def test_a_job_that_had_finished_ends_at_once(two_hosts):
    last = two_hosts / JOB_RUN / "checkpoints" / "last.ckpt"
    before = last.read_bytes()
    port = free_port()
    succeeded(*(host(rank, port, "fit", *TINY, *DOUBLE, *JOB, cwd=two_hosts) for rank in (0, 1)))
    assert last.read_bytes() == before


def test_hosts_without_a_common_folder_are_refused(two_hosts, tmp_path):
    port = free_port()
    arguments = ["fit", *TINY, *DOUBLE, *JOB, "--trainer.max_steps", "12"]
    with_run, without = (host(rank, port, *arguments, cwd=cwd) for rank, cwd in ((0, two_hosts), (1, tmp_path)))
    assert without.exit_code() != 0
    assert with_run.exit_code() != 0
    assert "found no checkpoint, process 0 found version_7/last.ckpt of outer step 8" in without.printed()
    assert state(two_hosts / JOB_RUN / "checkpoints" / "last.ckpt")["global_step"] == 8


LONGER = [
    *TINY,
    *("--trainer.max_steps", "300", "--trainer.val_check_interval", "100", "--trainer.log_every_n_steps", "7"),
    *("--last_checkpoint.every_n_steps", "20", *JOB),
]
ON_ONE_HOST = ["--nnodes", 1, "--nproc-per-node", 2, "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run of two processes that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole")
    succeeded(Agent(*ON_ONE_HOST, "-m", "metasgd", "fit", *LONGER, cwd=folder))
    return folder / JOB_RUN


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the worker to kill in Linux's /proc")
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_worker_leads_to_a_restart_that_loses_and_doubles_nothing(rank, tmp_path, whole):
    run_id = f"killed-{os.getpid()}-{rank}"
    elastic = [*ON_ONE_HOST, "--rdzv-id", run_id, "--max-restarts", 1]
    agent = Agent(*elastic, "-m", "metasgd", "fit", *LONGER, cwd=tmp_path)
    run = tmp_path / JOB_RUN
    last = run / "checkpoints" / "last.ckpt"
    wait_for(last)
    os.kill(worker(run_id, rank), signal.SIGKILL)
    assert state(last)["global_step"] < 300
    succeeded(agent)
    assert len(list(run.glob("events.*"))) == 2  # of rank 0 before the kill and after
    for name in ("last", "best"):
        a, b = (state(folder / "checkpoints" / f"{name}.ckpt") for folder in (run, whole))
        assert a["global_step"] == b["global_step"]
        assert all(torch.equal(a["state_dict"][n], b["state_dict"][n]) for n in b["state_dict"])
    for tag in ("train/loss", "val/mse", "outer/gradient_norm"):
        assert scalars(run, tag) == scalars(whole, tag)


def test_a_job_asked_to_stop_saves_and_resumes_when_it_is_started_again(tmp_path, whole):
    """torchrun passes SIGTERM on to its workers, which agree on the outer step after which they leave."""
    agent = Agent(*ON_ONE_HOST, "-m", "metasgd", "fit", *LONGER, cwd=tmp_path)
    run = tmp_path / JOB_RUN
    last = run / "checkpoints" / "last.ckpt"
    wait_for(last)
    agent.process.terminate()
    assert agent.exit_code() != 0
    assert 0 < state(last)["global_step"] < 300
    succeeded(Agent(*ON_ONE_HOST, "-m", "metasgd", "fit", *LONGER, cwd=tmp_path))
    a, b = (state(folder / "checkpoints" / "last.ckpt") for folder in (run, whole))
    assert all(torch.equal(a["state_dict"][n], b["state_dict"][n]) for n in b["state_dict"])
    assert scalars(run, "train/loss") == scalars(whole, "train/loss")
