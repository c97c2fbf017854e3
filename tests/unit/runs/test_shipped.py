"""What comes with metasgd is found by its name, and what lies in the folder at hand before it."""

import pytest
import torch
from support.runs import ROOT

import metasgd
from metasgd.errors import UserError
from metasgd.runs import shipped
from metasgd.runs.folders import checkpoint_file

NAMES = sorted(path.parent.name for path in (ROOT / "checkpoints").glob("*/model.ckpt"))


def test_all_of_the_clone_is_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert [*shipped.shipped_checkpoints()] == NAMES
    assert [*shipped.shipped_configs()] == sorted(path.stem for path in (ROOT / "configs").glob("*.yaml"))
    assert str(checkpoint_file("glyphs", "--ckpt_path")) == str(ROOT / "checkpoints" / "glyphs" / "model.ckpt")
    assert shipped.config_named("glyphs", "--config") == str(ROOT / "configs" / "glyphs.yaml")


def test_a_package_has_its_own(tmp_path, monkeypatch):
    (tmp_path / "checkpoints" / "mine").mkdir(parents=True)
    (tmp_path / "checkpoints" / "mine" / "model.ckpt").write_bytes(b"")
    monkeypatch.setattr(shipped, "ROOT", tmp_path)
    assert [*shipped.shipped_checkpoints()] == ["mine"]
    with pytest.raises(UserError, match="neither a file nor the name of a checkpoint .*one of mine"):
        checkpoint_file("glyphs", "--init_from")


@pytest.mark.parametrize("there", ["glyphs", "glyphs/model.ckpt"])
def test_a_file_or_folder_here_comes_first(there, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / there).parent.mkdir(exist_ok=True)
    (tmp_path / there).write_bytes(b"")
    assert shipped.checkpoint_named("glyphs", "--ckpt_path") == there


def test_a_folder_without_a_checkpoint_is_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "omniglot").mkdir()  # as of a data set
    assert shipped.checkpoint_named("omniglot", "--ckpt_path").endswith("omniglot/model.ckpt")


@pytest.mark.parametrize("given", ["runs/x.ckpt", "best.ckpt", "s3://bucket/omniglot", "a\0b", "x/" * 4000])
def test_paths_stay_as_they_are(given):
    assert shipped.checkpoint_named(given, "--ckpt_path") == given
    assert shipped.config_named(given, "--config") == given


@pytest.mark.parametrize("call", [metasgd.load, lambda name: metasgd.LearnedOptimizer([], checkpoint=name)])
def test_python_names_what_there_is(call):
    with pytest.raises(UserError, match=f"is omniglt, which .*one of {', '.join(NAMES)}") as it:
        call("omniglt")
    assert len(it.value.problems) == 1


def test_python_finds_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert metasgd.load("sinusoid").config["data"]["source"]["class_path"] == "metasgd.data.Sinusoid"
    network = torch.nn.Linear(2, 1)
    optimizer = metasgd.LearnedOptimizer(network.parameters(), checkpoint="optimizer_network_long", total_steps=10)
    assert optimizer.rule.total_steps == 10
