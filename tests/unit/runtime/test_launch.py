import socket
from types import SimpleNamespace

import pytest
from lightning import Trainer
from support.runs import TINY

from metasgd.cli.main import main
from metasgd.errors import UserError
from metasgd.runtime.launch import ConsistentCheckpoint, Launch

TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "GROUP_WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "3", "WORLD_SIZE": "6"}
SRUN = {"SLURM_JOB_NAME": "x", "SLURM_NNODES": "2", "SLURM_NTASKS_PER_NODE": "3", "SLURM_NTASKS": "6"}


def test_processes_that_nobody_else_started():
    assert Launch.here() is None


@pytest.mark.parametrize(("by", "environment"), [("torchrun", TORCHRUN), ("srun", SRUN)])
def test_what_was_started_is_filled_in_where_nothing_was_said(by, environment, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    launch = Launch.here()
    assert launch == Launch(by, hosts=2, per_host=3, processes=6)
    assert launch.fill_in(num_nodes=1, devices="auto") == {"num_nodes": 2, "devices": 3}
    assert launch.fill_in(num_nodes=4, devices=1) == {"num_nodes": 4, "devices": 1}


def test_torchrun_within_a_job_of_slurm_is_what_counts(monkeypatch):
    for name, value in {**SRUN, "SLURM_NTASKS_PER_NODE": "1", "SLURM_NTASKS": "2", **TORCHRUN}.items():
        monkeypatch.setenv(name, value)
    assert Launch.here() == Launch("torchrun", hosts=2, per_host=3, processes=6)


@pytest.mark.parametrize(
    "options",
    [
        ["--trainer.devices", "1"],
        ["--trainer.num_nodes", "3"],
        ["--trainer.devices", "2", "--trainer.num_nodes", "2"],
    ],
)
def test_a_trainer_that_counts_on_other_processes_is_refused(options, monkeypatch, tmp_path, capsys):
    """It would wait for processes that never come, or each would work alone in the same folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["metasgd"])
    ranks = {"RANK": "0", "LOCAL_RANK": "0", "GROUP_RANK": "0"}
    for name, value in {**TORCHRUN, **ranks}.items():
        monkeypatch.setenv(name, value)
    assert main(["fit", *TINY, *options]) == 2
    assert "torchrun started 6 processes on 2 hosts, but trainer.num_nodes is" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_restarts_that_would_wait_for_the_dead_are_refused(monkeypatch):
    for name, value in {**TORCHRUN, "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_MAX_RESTARTS": "3"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="--max-restarts is 3, .* Set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"):
        Launch.here()
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "False")
    assert Launch.here().processes == 6
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "0")
    assert Launch.here().processes == 6


def test_a_single_process_of_torchrun_is_one_of_its_own():
    alone = Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
    Launch("torchrun", hosts=1, per_host=1, processes=1).validate_targets(alone)
    with pytest.raises(UserError, match="torchrun started 2 processes on 1 hosts"):
        Launch("torchrun", hosts=1, per_host=2, processes=2).validate_targets(alone)


def test_a_process_that_found_another_checkpoint_leaves():
    first = "version_7/last.ckpt of outer step 12"
    trainer = SimpleNamespace(strategy=SimpleNamespace(broadcast=lambda own: first), global_rank=3)
    ConsistentCheckpoint(first).setup(trainer, None, "fit")
    for found in ("no checkpoint", "version_7/last.ckpt of outer step 10", "version_8/last.ckpt of outer step 12"):
        with pytest.raises(UserError, match=f"process 3 on {socket.gethostname()} found {found}, process 0 found"):
            ConsistentCheckpoint(found).setup(trainer, None, "fit")
