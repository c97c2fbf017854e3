"""Two processes on the same global meta-batch do what one does, and the checkpoints of either serve the other."""

import json
import os
import signal
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import torch
from support.agents import free_port
from support.commands import succeeded
from support.programs import Program
from support.recording import in_turn
from support.runs import ROOT

from metasgd.runs.checkpoint_file import read_checkpoint
from metasgd.training.module import SKIPPED_KEY

STEPS = 20
PYTHONPATH = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(ROOT / "tests")]))
SINUSOID = [
    *("--config", str(ROOT / "configs" / "sinusoid.yaml"), "--trainer.accelerator", "cpu"),
    *("--trainer.max_steps", str(STEPS), "--trainer.val_check_interval", "10", "--trainer.log_every_n_steps", "1"),
    # its length is the run's, and some of these are halves of a run
    *("--model.outer.scheduler", "null"),
    *("--trainer.enable_progress_bar", "false", "--data.val_tasks", "21", "--data.test_tasks", "41"),
]
TWO = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
NAME = ["--trainer.logger.init_args.name"]
POISONED = ["--data.source", "support.poisoned.Poisoned", "--data.source.tasks", "[3, 30, 33]"]
"""One of the two draws all of these: outer steps 0, 7 and 8 are skipped by both."""
WAYS = {
    "joint": ([], ("loop", "vmap", "threads", "graph")),
    "alternating": (
        ["--model.outer.alternate", "3", "--model.update_rule", "OptimizerNetwork", "--model.inner_steps", "2"],
        ("vmap",),
    ),
    "poisoned": (POISONED, ("vmap",)),
}
"""What is trained, and by which engines, graph by a stand-in; each in a run's folder of its own."""
BEST = "runs/joint-loop/version_0/checkpoints/best.ckpt"
EVALUATED = [*SINUSOID, "--model.engine", "loop"]


def start(folder: Path, *arguments: str, **environment: str) -> Program:
    variables = {**os.environ, "PYTHONPATH": PYTHONPATH, **environment}
    return Program(*arguments, cwd=folder, environment=variables, leads_group=True)


def finish(process: Program) -> tuple[int, str]:
    """The exit code and what was said; whatever the process started is ended with it."""
    try:
        code = process.wait()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return code, process.said()


def lines(command: str, *extra: str) -> list[list[str]]:
    """A command line for each."""
    return [
        [command, *SINUSOID, *way, *NAME, f"{name}-{engine}", "--model.engine", engine, *extra]
        for name, (way, engines) in WAYS.items()
        for engine in engines
    ]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folders of the same runs by one process and by two, which have also evaluated one of those by one."""
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    together = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "NODE_RANK": "0", "WORLD_SIZE": "2"}
    for line in lines("fit"):
        succeeded(*line, cwd=one)
    checkpoint = ["--ckpt_path", str(one / BEST)]  # whose tests and predictions are written to its run
    by_two = [*lines("fit", *TWO), *([c, *EVALUATED, *TWO, *checkpoint] for c in ("test", "predict"))]
    every_line = partial(in_turn, by_two)
    processes = [
        Program(cwd=two, environment={**os.environ, "LOCAL_RANK": str(rank), **together}, program=every_line)
        for rank in (0, 1)
    ]
    for process in processes:
        code, said = finish(process)
        assert code == 0, said
    return one, two


@pytest.mark.parametrize("name", [f"{way}-{engine}" for way, (_, engines) in WAYS.items() for engine in engines])
def test_the_same_weights_after_20_outer_steps(trained, name):
    ones, twos = (
        read_checkpoint(folder / "runs" / name / "version_0" / "checkpoints" / "last.ckpt") for folder in trained
    )
    assert ones["global_step"] == twos["global_step"] == STEPS
    for tensor, weights in ones["state_dict"].items():
        torch.testing.assert_close(twos["state_dict"][tensor], weights, rtol=0, atol=1e-5)
    skipped = {"total": 3, "in_a_row": 0} if name == "poisoned-vmap" else {"total": 0, "in_a_row": 0}
    assert ones[SKIPPED_KEY] == twos[SKIPPED_KEY] == skipped
    best = [next(s for k, s in found["callbacks"].items() if "'monitor'" in k) for found in (ones, twos)]
    torch.testing.assert_close(best[0]["best_model_score"], best[1]["best_model_score"], rtol=0, atol=1e-4)


def test_a_test_by_two_covers_each_task_once_and_its_interval_is_over_all(trained):
    checkpoint = trained[0] / BEST
    run = checkpoint.parents[1]

    def found():
        return json.loads((run / "results.json").read_text()), (run / "tasks.csv").read_text().splitlines()

    two, two_by_task = found()
    (run / "results.json").unlink()
    (run / "tasks.csv").unlink()
    succeeded("test", *EVALUATED, "--ckpt_path", str(checkpoint), cwd=trained[0])
    one, one_by_task = found()
    assert one["n_tasks"] == two["n_tasks"] == 41
    assert two["test/mse"] == pytest.approx(one["test/mse"], rel=1e-6)
    assert two["test/mse_ci95"] == pytest.approx(one["test/mse_ci95"], rel=1e-6)
    assert len(one_by_task) == len(two_by_task)


def test_predictions_by_two_are_one_table_with_each_query_once_in_order(trained):
    checkpoint = trained[0] / BEST
    table = checkpoint.parents[1] / "predictions.csv"
    assert list(table.parent.glob("predictions*")) == [table]
    two = table.read_text()
    table.unlink()
    succeeded("predict", *EVALUATED, "--ckpt_path", str(checkpoint), cwd=trained[0])
    one = table.read_text()
    assert two == one
    queries = [tuple(map(int, line.split(",")[:2])) for line in one.splitlines()[1:]]
    assert queries == [(task, query) for task in range(41) for query in range(100)]


@pytest.mark.parametrize(("first", "then"), [([], TWO), (TWO, [])], ids=["1 to 2", "2 to 1"])
def test_a_run_resumes_with_another_number_of_processes(trained, tmp_path, first, then):
    """Half of a run by one number of processes and half by the other, as the whole by one."""
    half = ["--trainer.max_steps", str(STEPS // 2)]
    name = [*NAME, "joint-loop", "--model.engine", "loop"]
    for processes, options in ((first, half), (then, ["--ckpt_path", "last"])):
        command = ["fit", *SINUSOID, *name, *processes, *options]
        if processes == TWO:
            code, said = finish(start(tmp_path, *command))
            assert code == 0, said
        else:
            succeeded(*command, cwd=tmp_path)
    ends = [
        read_checkpoint(folder / "runs" / "joint-loop" / "version_0" / "checkpoints" / "last.ckpt")
        for folder in (tmp_path, trained[0])
    ]
    assert ends[0]["global_step"] == STEPS
    for name, weights in ends[0]["state_dict"].items():
        torch.testing.assert_close(ends[1]["state_dict"][name], weights, rtol=0, atol=1e-5)


LONG = [
    *SINUSOID,
    *TWO,
    *(
        "--trainer.max_steps",
        "100000",
        "--trainer.val_check_interval",
        "50000",
        "--last_checkpoint.every_n_steps",
        "20",
    ),
]


PATIENT = ["--trainer.strategy", "DDPStrategy", "--trainer.strategy.timeout", "0:00:40"]
"""So long they wait for each other, also at the start."""


@pytest.fixture
def running(request, tmp_path):
    """A run of two processes that has written a checkpoint: (the first process, the other's id, last.ckpt)."""
    last = tmp_path / "runs" / "sinusoid" / "version_0" / "checkpoints" / "last.ckpt"
    process = start(tmp_path, "fit", *LONG, *getattr(request, "param", []))
    deadline = time.monotonic() + 300
    while not last.exists():
        assert process.poll() is None, finish(process)
        assert time.monotonic() < deadline
        time.sleep(0.05)
    (child,) = (int(c) for c in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())
    yield process, child, last
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # one that was stopped does not end by itself
    finish(process)


@pytest.mark.parametrize("asked", ["the other", "both"])
def test_asked_to_stop_they_stop_after_the_same_step(running, asked):
    process, child, last = running
    for number in {"the other": [child], "both": [process.pid, child]}[asked]:
        os.kill(number, signal.SIGTERM)
    code, said = finish(process)
    assert code == 128 + signal.SIGTERM, said
    assert "Traceback" not in said
    assert read_checkpoint(last)["global_step"] >= 20


def test_one_killed_the_other_ends_with_a_message_and_the_run_resumes(running):
    process, child, last = running
    os.kill(child, signal.SIGKILL)
    code, said = finish(process)
    assert code == 1, said
    assert "error: another process of this run has ended" in said
    assert "--ckpt_path last" in said
    assert "Traceback" not in said
    assert_resumes(last)


def assert_resumes(last):
    steps = read_checkpoint(last)["global_step"]
    assert steps >= 20
    more = ["--trainer.max_steps", str(steps + 2), "--ckpt_path", "last"]
    code, said = finish(start(last.parents[4], "fit", *LONG, *more))
    assert code == 0, said
    assert read_checkpoint(last)["global_step"] == steps + 2


def state_of(pid):
    """R, S, T, Z …, as in ps; X if there is no such process."""
    place = Path(f"/proc/{pid}/stat")
    return place.read_text().rpartition(")")[2].split()[0] if place.exists() else "X"


@pytest.mark.slow
@pytest.mark.parametrize("running", [PATIENT], indirect=True)
@pytest.mark.parametrize("hung", ["the other", "the first"])
def test_one_hangs_the_other_ends_in_the_time_allowed_and_the_run_resumes(running, hung):
    process, child, last = running
    left = {"the other": process.pid, "the first": child}[hung]
    os.kill(child if hung == "the other" else process.pid, signal.SIGSTOP)
    deadline = time.monotonic() + 180
    while state_of(left) not in "ZX":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    if hung == "the first":
        process.kill()
    code, said = finish(process)
    assert code == {"the other": 1, "the first": -signal.SIGKILL}[hung], said
    assert ": another process of this run has ended, or has not answered within the time" in said
    assert "Traceback" not in said
    assert state_of(child) in "ZX"  # a process that hangs is not left behind by the one that started it
    assert_resumes(last)
