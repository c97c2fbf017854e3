import os
from pathlib import Path

import pytest
import torch

from metasgd.errors import UserError
from metasgd.runs import Run, read_checkpoint, refuse_misfit, resolve_checkpoint, run_of, runs_of


def checkpoint(run: Run, keyword: str) -> Path:
    path = run.checkpoint(keyword)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": {}}, path)
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
    refuse_misfit(Path("x.ckpt"), {"state_dict": torch.nn.Linear(2, 3).state_dict()}, module)
    for other, said in (
        (torch.nn.Linear(2, 4), r"weight is \(4, 2\) there and \(3, 2\) in the configured model \(2 tensors differ\)"),
        (torch.nn.Linear(2, 3, bias=False), r"bias is absent there and \(3,\)"),
        (torch.nn.Sequential(torch.nn.Linear(2, 3)), r"absent"),
    ):
        with pytest.raises(UserError, match=said):
            refuse_misfit(Path("x.ckpt"), {"state_dict": other.state_dict()}, module)
