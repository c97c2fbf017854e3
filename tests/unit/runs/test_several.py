"""What ``--ckpt_path`` means where it gives several checkpoints."""

import re

import pytest
import torch
from upath import UPath

from metasgd.errors import UserError
from metasgd.runs.folders import Run
from metasgd.runs.several import checkpoints_given, split_names

KEYS = (
    "BestCheckpoint{'monitor': 'val/accuracy', 'mode': 'max'}",
    "ModelCheckpoint{'monitor': 'val/accuracy', 'mode': 'max'}",
    "ModelCheckpoint{'monitor': 'val/loss', 'mode': 'min'}",
)
VALUES = (
    {"best": 0.9},
    {"at4": 0.7, "at8": 0.9, "at12": 0.8, "gone": 0.95},
    {"by_loss": 0.1},
)


@pytest.fixture
def run(tmp_path) -> Run:
    """Of 12 outer steps, three of which are saved by their accuracy; in a folder that was moved since."""
    run = Run(UPath(tmp_path), "omniglot", 3)
    run.checkpoint("last").parent.mkdir(parents=True)
    for name, step in {"at4": 4, "at8": 8, "at12": 12, "best": 8, "by_loss": 12}.items():
        torch.save({"state_dict": {}, "global_step": step}, run.checkpoint(name))
    callbacks = {
        key: {
            "monitor": key.split("'")[3],
            "best_k_models": {f"/before/checkpoints/{n}.ckpt": v for n, v in of.items()},
        }
        for key, of in zip(KEYS, VALUES, strict=True)
    }
    torch.save({"state_dict": {}, "global_step": 12, "callbacks": callbacks}, run.checkpoint("last"))
    return run


def given(run: Run, ckpt_path: str, fit: bool = False):
    return checkpoints_given(ckpt_path, run.save_dir, run.name, None, fit)


def test_the_best_of_a_run_each_outer_step_once(run):
    at8, at12, at4 = (str(run.checkpoint(name).resolve()) for name in ("at8", "at12", "at4"))
    assert given(run, "best:3") == [at8, at12, at4]
    assert given(run, "omniglot,best:1") == ["omniglot", at8]


def test_one_checkpoint_stays_what_it_is(run, tmp_path, monkeypatch):
    assert checkpoints_given(None, run.save_dir, run.name, None, fit=True) == [None]
    assert given(run, "last", fit=True) == ["last"]
    (tmp_path / "a,b.ckpt").touch()
    monkeypatch.chdir(tmp_path)
    assert split_names("a,b.ckpt") == ["a,b.ckpt"]


@pytest.mark.parametrize(
    ("ckpt_path", "fit", "said"),
    [
        ("best:9", False, "best:9, but .*version_3 has 3 checkpoints that a validation chose. Train with .*top_k=9"),
        ("best:0", False, "best:0: at least 1 is needed"),
        ("a.ckpt,", False, "--ckpt_path is a.ckpt,: a checkpoint is missing beside a comma"),
        ("a.ckpt, a.ckpt", False, "gives a.ckpt twice: give each checkpoint once"),
        ("a.ckpt,b.ckpt", True, "a.ckpt,b.ckpt: fit resumes one checkpoint"),
        ("best:1", True, "best:1: fit resumes one checkpoint"),
    ],
)
def test_what_cannot_be_meant(run, ckpt_path, fit, said):
    with pytest.raises(UserError) as raised:
        given(run, ckpt_path, fit)
    assert re.search(said, str(raised.value))


@pytest.mark.parametrize(("version", "said"), [(None, "no run in .*none has a"), (7, "the run .*version_7 has no")])
def test_the_best_of_no_run(tmp_path, version, said):
    with pytest.raises(UserError, match=f"--ckpt_path is best:3, but {said} checkpoints/last.ckpt. Train one"):
        checkpoints_given("best:3", UPath(tmp_path), "none", version, fit=False)
