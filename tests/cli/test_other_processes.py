"""What a process that is killed leaves behind, and what one that is at work keeps others from."""

import os
import signal
import subprocess

import numpy as np
import pytest
import torch
from support.processes import exit_code, holder_of, kill_itself, silent
from upath import UPath

from metasgd.data.cache import load_or_build
from metasgd.data.class_pool import ClassPool
from metasgd.errors import UserError
from metasgd.reporting.text import shell_command
from metasgd.runs import lock as run_lock
from metasgd.runs.folders import Run, find_start
from metasgd.runs.lock import locked
from metasgd.training.checkpoint_io import WholeCheckpointIO


def test_a_process_killed_in_the_middle_of_a_write_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    old, new = ({"state_dict": {"a": torch.full((100_000,), float(value))}} for value in (0, 1))
    WholeCheckpointIO().save_checkpoint(old, path)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", kill_itself)  # at the end of the write
        assert exit_code(lambda: WholeCheckpointIO().save_checkpoint(new, path)) == -signal.SIGKILL
    assert torch.load(path)["state_dict"]["a"].unique().tolist() == [0]
    assert len(list(tmp_path.iterdir())) == 2  # and what was written of the new one
    WholeCheckpointIO().save_checkpoint(new, path)
    assert torch.load(path)["state_dict"]["a"].unique().tolist() == [1]
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


def pool():
    return ClassPool.of_equal_counts(np.arange(32, dtype=np.uint8).reshape(1, 2, 1, 4, 4), ("a/1",), np.array([0]))


def test_what_a_killed_writer_of_the_cache_left_is_removed_by_the_next(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", kill_itself)
        assert exit_code(lambda: load_or_build(tmp_path, "key", pool)) == -signal.SIGKILL
    [left] = os.listdir(tmp_path)
    assert left.endswith(".partial")
    np.testing.assert_array_equal(load_or_build(tmp_path, "key", pool).images, pool().images)
    assert os.listdir(tmp_path) == ["key"]


@pytest.fixture
def run(tmp_path):
    run = Run(UPath(tmp_path), "a", 3)
    run.checkpoint("last").parent.mkdir(parents=True)
    return run


@pytest.mark.parametrize("fork_worker", [False, True])
def test_a_run_is_of_one_process_until_that_ends(run, fork_worker):
    with holder_of(run, fork_worker) as holder, pytest.raises(UserError) as caught, locked(run, silent):
        pass
    assert f"{run.folder} is being trained at this moment, by process {holder} on" in str(caught.value)
    with locked(run, silent):  # that one was killed
        pass
    assert [path.name for path in run.folder.iterdir()] == ["checkpoints"]


def test_a_lock_on_a_file_that_its_holder_has_just_removed_is_none(run, monkeypatch):
    """Another process would lock the file that stands there next."""
    lockf, taken = run_lock.fcntl.lockf, []

    def late(handle, operation):
        if not taken:
            taken.append(handle)
            (run.folder / run_lock.FILE).unlink()
        lockf(handle, operation)

    monkeypatch.setattr(run_lock.fcntl, "lockf", late)
    with locked(run, silent):
        child = os.fork()
        if child == 0:
            monkeypatch.undo()
            with pytest.raises(UserError, match="is being trained at this moment"), locked(run, silent):
                pass
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0


def test_a_run_that_is_trained_elsewhere_is_neither_read_nor_started(run):
    run.checkpoint("last").write_bytes(b"half")  # reading it would be another refusal

    def own(run):
        with locked(run, silent):
            pass

    for ckpt_path, version in (("resume", 3), ("last", None), (str(run.checkpoint("last")), None)):
        with holder_of(run), pytest.raises(UserError, match="is being trained at this moment"):
            find_start(ckpt_path, run.save_dir, "a", version, fit=True, own=own)
        with holder_of(run), pytest.raises(UserError, match="cannot be read: it is damaged"):
            find_start(ckpt_path, run.save_dir, "a", version, fit=False, own=own)  # to evaluate is no harm


def test_commands_can_be_pasted_into_a_shell():
    names = [
        r"$\frac$",
        "two\nlines",
        "a b'c\"d",
        "=cmd()",
        "\x1b[2J\x07",
        "\udcff",
        "%s {} \\",
        "$",
        "-1",
        "`id` $(id)",
        "שלום",
    ]
    commands = "; ".join(shell_command(["printf", "%s\\0", name]) for name in names)
    printed = subprocess.run(["bash", "-c", commands], capture_output=True, check=True).stdout
    assert printed.split(b"\0")[:-1] == [name.encode("utf-8", "surrogateescape") for name in names]
