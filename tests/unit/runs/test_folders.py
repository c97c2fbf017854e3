import os
from pathlib import Path

import pytest
import torch
from upath import UPath

from metasgd.errors import UserError
from metasgd.runs.checkpoint_file import read_checkpoint
from metasgd.runs.folders import Run, find_start, resolve_checkpoint, run_of, runs_of, validate_shapes


@pytest.fixture
def tmp_path(tmp_path):
    return UPath(tmp_path)


def checkpoint(run: Run, keyword: str) -> Path:
    path = run.checkpoint(keyword)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": {}, "global_step": 12}, path)
    return path


def test_a_keyword_means_the_newest_run_that_has_one(tmp_path):
    checkpoint(Run(tmp_path, "a", 2), "last")
    expected = checkpoint(Run(tmp_path, "a", 10), "last")
    (tmp_path / "a" / "version_11").mkdir()
    assert [run.version for run in runs_of(tmp_path, "a")] == [11, 10, 2]
    assert resolve_checkpoint("last", tmp_path, "a") == expected
    with pytest.raises(UserError, match=r"--ckpt_path is best, but no run in .* has checkpoints/best.ckpt"):
        resolve_checkpoint("best", tmp_path, "a")


def test_a_path_must_be_a_file(tmp_path):
    path = checkpoint(Run(tmp_path, "a", 0), "last")
    assert resolve_checkpoint(str(path), tmp_path, "a") == path
    with pytest.raises(UserError, match="which is not there"):
        resolve_checkpoint(str(tmp_path / "none.ckpt"), tmp_path, "a")
    with pytest.raises(UserError, match="which is a folder"):
        resolve_checkpoint(str(tmp_path), tmp_path, "a")


def test_a_named_run_is_the_only_one_that_counts(tmp_path):
    first, newest = (checkpoint(Run(tmp_path, "a", version), "last") for version in (3, 9))
    assert resolve_checkpoint("last", tmp_path, "a", 3) == first
    assert resolve_checkpoint("resume", tmp_path, "a", 9) == newest
    with pytest.raises(UserError, match=r"the run .*version_4 does not have checkpoints/last.ckpt"):
        resolve_checkpoint("last", tmp_path, "a", 4)


def test_a_job_starts_its_run_and_then_resumes_it(tmp_path):
    checkpoint(Run(tmp_path, "a", 3), "last")  # another job's
    run = Run(tmp_path, "a", 41)
    start = find_start("resume", tmp_path, "a", 41, fit=True)
    assert (start.run, start.checkpoint, start.outer_step) == (run, None, 0)
    assert str(start) == "no checkpoint"
    (run.folder / "checkpoints").mkdir(parents=True)  # stopped before its first checkpoint
    assert find_start("resume", tmp_path, "a", 41, fit=True) == start
    last = checkpoint(run, "last")
    start = find_start("resume", tmp_path, "a", 41, fit=True)
    assert (start.run, start.checkpoint, start.outer_step) == (run, last, 12)
    assert str(start) == "version_41/last.ckpt of outer step 12"


def test_a_job_without_a_run_of_its_own_is_refused(tmp_path):
    checkpoint(Run(tmp_path, "a", 3), "last")
    with pytest.raises(UserError, match="--ckpt_path is resume, .* but it names none"):
        find_start("resume", tmp_path, "a", None, fit=True)
    for version in ("mine", -1, "7b"):
        with pytest.raises(UserError, match=f"version is {version}: a whole number from 0"):
            find_start("resume", tmp_path, "a", version, fit=True)


def test_a_job_does_not_pass_over_a_damaged_checkpoint(tmp_path):
    checkpoint(Run(tmp_path, "a", 41), "last").write_bytes(b"")
    with pytest.raises(UserError, match="last.ckpt cannot be read: it is damaged"):
        find_start("resume", tmp_path, "a", 41, fit=True)


def test_a_new_run_does_not_take_the_folder_of_another(tmp_path):
    other, own = (checkpoint(Run(tmp_path, "a", version), "last") for version in (3, 9))
    for ckpt_path in (None, str(other)):
        with pytest.raises(UserError, match="version is 9, but .*version_9 is there already"):
            find_start(ckpt_path, tmp_path, "a", 9, fit=True)
    assert find_start(str(own), tmp_path, "a", 9, fit=True).run == Run(tmp_path, "a", 9)
    started = find_start(str(other), tmp_path, "a", 10, fit=True)
    assert (started.run, started.checkpoint) == (Run(tmp_path, "a", 10), other)
    assert find_start("last", tmp_path, "a", 9, fit=False).checkpoint == own


def test_the_run_that_a_checkpoint_lies_in(tmp_path):
    run = Run(tmp_path, "a", 3)
    assert run_of(run.checkpoint("last")) == run
    assert run_of(tmp_path / "version_3" / "elsewhere" / "last.ckpt") is None
    assert run_of(tmp_path / "checkpoints" / "last.ckpt") is None


class Trap:
    """Unpickles by making a folder."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return os.mkdir, (self.place,)


def test_code_in_a_checkpoint_does_not_run(tmp_path):
    path, place = tmp_path / "trap.ckpt", tmp_path / "made"
    torch.save({"state_dict": {}, "trap": Trap(str(place))}, path)
    with pytest.raises(UserError, match="cannot be read"):
        read_checkpoint(path)
    assert not place.exists()
    torch.load(path, weights_only=False)  # it would have
    assert place.exists()


def damaged(content: bytes) -> dict[str, bytes]:
    return {
        "empty": b"",
        "text": b"no checkpoint\n" * 10,
        "one byte": b"P",
        "truncated": content[: len(content) // 2],
        "all but the end": content[:-10],
        "zeros": bytes(1000),
    }


@pytest.mark.parametrize("damage", damaged(b""))
def test_a_damaged_checkpoint_is_named(tmp_path, damage):
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": {"a": torch.zeros(1000)}}, path)
    path.write_bytes(damaged(path.read_bytes())[damage])
    with pytest.raises(UserError, match=r"last.ckpt cannot be read: it is damaged"):
        read_checkpoint(path)


def test_something_else_is_no_checkpoint(tmp_path):
    for content in ({"weights": 1}, [1, 2], torch.zeros(3)):
        torch.save(content, tmp_path / "x.ckpt")
        with pytest.raises(UserError, match="is not a checkpoint of metasgd"):
            read_checkpoint(tmp_path / "x.ckpt")


def test_a_checkpoint_of_another_network_is_refused_by_its_first_tensor():
    module = torch.nn.Linear(2, 3)
    validate_shapes(Path("x.ckpt"), {"state_dict": torch.nn.Linear(2, 3).state_dict()}, module)
    for other, said in (
        (torch.nn.Linear(2, 4), r"weight is \(4, 2\) there and \(3, 2\) in the configured model \(2 tensors differ\)"),
        (torch.nn.Linear(2, 3, bias=False), r"bias is absent there and \(3,\)"),
        (torch.nn.Sequential(torch.nn.Linear(2, 3)), r"absent"),
    ):
        with pytest.raises(UserError, match=said):
            validate_shapes(Path("x.ckpt"), {"state_dict": other.state_dict()}, module)
