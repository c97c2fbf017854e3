"""Two processes that share one GPU, as two hosts with a GPU each would share a run: the weights are those of one."""

import os

import pytest
import torch
from support.agents import free_port
from support.commands import succeeded
from support.programs import Program
from support.runs import ROOT, state

STEPS = 8
LETTERS = [
    *("--config", str(ROOT / "configs" / "glyphs.yaml"), "--trainer.accelerator", "gpu", "--trainer.devices", "1"),
    *("--trainer.max_steps", str(STEPS), "--trainer.val_check_interval", "4", "--model.outer.zero_steps_until", "2"),
    *("--trainer.precision", "64-true", "--trainer.enable_progress_bar", "false", "--data.val_tasks", "9"),
    *("--data.meta_batch_size", "4", "--model.outer.scheduler", "null"),
]
SHARED = [  # NCCL refuses two processes on one device
    *("--trainer.num_nodes", "2", "--trainer.strategy", "DDPStrategy"),
    *("--trainer.strategy.process_group_backend", "gloo"),
]
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def fit_by_one(folder, *options):
    succeeded("fit", *LETTERS, *options, cwd=folder)


def fit_by_two(folder, *options):
    here = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    together = {**os.environ, **here, "WORLD_SIZE": "2", "LOCAL_RANK": "0"}
    processes = [
        Program("fit", *LETTERS, *SHARED, *options, cwd=folder, environment={**together, "NODE_RANK": str(rank)})
        for rank in (0, 1)
    ]
    for process in processes:
        assert process.wait() == 0, process.said()


@pytest.mark.parametrize("engine", ["graph", "vmap"])
def test_two_processes_take_the_outer_steps_of_one(tmp_path, engine):
    ends = []
    for name, fit in (("one", fit_by_one), ("two", fit_by_two)):
        folder = tmp_path / name
        folder.mkdir()
        fit(folder, "--model.engine", engine)
        ends.append(state(folder / "runs" / "glyphs" / "version_0" / "checkpoints" / "last.ckpt"))
    one, two = ends
    assert one["global_step"] == two["global_step"] == STEPS
    for tensor, weights in one["state_dict"].items():
        torch.testing.assert_close(two["state_dict"][tensor], weights, rtol=0, atol=1e-9)
