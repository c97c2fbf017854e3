import errno
import os
import resource

import pytest
import torch

from metasgd.errors import UserError
from metasgd.training.checkpoint_io import WholeCheckpointIO

OLD, NEW = {"state_dict": {"a": torch.zeros(3)}}, {"state_dict": {"a": torch.ones(3)}}


def test_written_and_read(tmp_path):
    path = tmp_path / "new" / "last.ckpt"
    WholeCheckpointIO().save_checkpoint(NEW, path)
    assert WholeCheckpointIO().load_checkpoint(path)["state_dict"]["a"].tolist() == [1, 1, 1]
    assert [p.name for p in path.parent.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_checkpoint_and_nothing_else(tmp_path, monkeypatch, call):
    path = tmp_path / "last.ckpt"
    WholeCheckpointIO().save_checkpoint(OLD, path)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    if call == "replace":
        monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(
        UserError, match="could not be written .No space left on device.; the checkpoint written before"
    ):
        WholeCheckpointIO().save_checkpoint(NEW, path)
    assert torch.load(path)["state_dict"]["a"].tolist() == [0, 0, 0]
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_killed_write_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    WholeCheckpointIO().save_checkpoint(OLD, path)

    class Killed(BaseException):
        pass

    def die(*args):
        raise Killed

    monkeypatch.setattr("pathlib.Path.replace", die)
    with pytest.raises(Killed):
        WholeCheckpointIO().save_checkpoint(NEW, path)
    assert torch.load(path)["state_dict"]["a"].tolist() == [0, 0, 0]


def test_remote_paths_are_lightnings(tmp_path):
    path = "memory://runs/last.ckpt"
    WholeCheckpointIO().save_checkpoint(NEW, path)
    assert WholeCheckpointIO().load_checkpoint(path)["state_dict"]["a"].tolist() == [1, 1, 1]


def test_a_disk_that_takes_only_a_part_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    """The system itself refuses the bytes after the first 2,000."""
    path = tmp_path / "last.ckpt"
    WholeCheckpointIO().save_checkpoint(OLD, path)
    monkeypatch.setattr("sys.dont_write_bytecode", True)  # Python would cut off a compiled module
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        with pytest.raises(UserError, match="could not be written .File too large.; the checkpoint written before"):
            WholeCheckpointIO().save_checkpoint({"state_dict": {"a": torch.ones(100_000)}}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert torch.load(path)["state_dict"]["a"].tolist() == [0, 0, 0]
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]
