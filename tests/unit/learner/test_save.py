"""Learners as files of safetensors, here and on the Hub: what is loaded again is what was saved."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from support.runs import ROOT, assert_same

import metasgd
from metasgd.cli.main import main
from metasgd.errors import UserError
from metasgd.runs.checkpoint_file import read_checkpoint

X, Y = np.linspace(-2, 2, 5, dtype=np.float32)[:, None], np.sin(np.linspace(-2, 2, 5))


@pytest.fixture
def saved(tmp_path):
    metasgd.save(metasgd.load("sinusoid"), tmp_path / "mine.safetensors")
    return tmp_path / "mine.safetensors"


@pytest.mark.parametrize("name", ["omniglot", "scaled_network_long"])
def test_a_shipped_learner_is_what_it_was(name, tmp_path):
    learner = metasgd.load(name)
    metasgd.save(learner, tmp_path / "mine.safetensors")
    again = metasgd.load(tmp_path / "mine.safetensors")
    assert_same(dict(again.model.state_dict()), dict(learner.model.state_dict()))
    assert again.config == learner.config


def test_other_tools_read_the_weights_and_the_configuration(saved):
    whole = torch.load(ROOT / "checkpoints/sinusoid/model.ckpt", weights_only=True)
    with safe_open(saved, "pt") as file:
        found = {name: file.get_tensor(name) for name in whole["state_dict"]}
        assert set(file.keys()) == set(found)
        rest = json.loads(file.metadata()["metasgd"])
    assert_same(found, dict(whole["state_dict"]))
    assert rest["global_step"] == whole["global_step"]
    assert "metasgd.rules.PerParameter" in rest["metasgd_config"]


def test_commands_evaluate_it_as_any_checkpoint(saved, monkeypatch):
    monkeypatch.chdir(saved.parent)
    monkeypatch.setattr("sys.argv", ["metasgd"])
    small = ["--data.test_tasks", "8", "--trainer.accelerator", "cpu", "--trainer.logger", "false"]
    assert main(["test", "sinusoid", *small, "--ckpt_path", str(saved), "--run.name", "mine"]) == 0
    found = np.genfromtxt(saved.parent / "runs/mine/version_0/tasks.csv", delimiter=",", names=True)["mse"]
    card = json.loads((ROOT / "checkpoints/sinusoid/card.json").read_text())
    np.testing.assert_allclose(found, card["first_tasks"][:8], rtol=1e-4)


def test_damage_is_found(saved):
    content = saved.read_bytes()
    for changed, said in (
        (content[:-1] + bytes([content[-1] ^ 1]), "SHA-256 differs"),
        (content[:-1], "cannot be read"),
        (content.replace(b"inner_steps: 1", b"inner_steps: 2", 1), "SHA-256 differs"),
        (b"", "cannot be read"),
    ):
        saved.write_bytes(changed)
        with pytest.raises(UserError, match=said):
            metasgd.load(saved)


def test_weights_alone_are_no_learner(tmp_path):
    save_file({"w": torch.zeros(1)}, tmp_path / "alone.safetensors")
    with pytest.raises(UserError, match="without the configuration that metasgd.save writes"):
        read_checkpoint(tmp_path / "alone.safetensors")


@pytest.mark.filterwarnings("ignore:Complex modules are a new feature")
def test_what_cannot_be_saved_is_said(tmp_path):
    learner = metasgd.load("sinusoid")
    with pytest.raises(UserError, match="ends in .safetensors"):
        metasgd.save(learner, tmp_path / "mine.ckpt")
    with pytest.raises(UserError, match="has no configuration of a run"):
        metasgd.save(metasgd.MetaLearner(learner.model, {}), tmp_path / "mine.safetensors")
    with pytest.raises(UserError, match="has no form for these weights"):
        metasgd.save(
            metasgd.MetaLearner(learner.model.to(torch.complex128), learner.config), tmp_path / "a.safetensors"
        )
    assert not list(tmp_path.iterdir())


def test_a_folder_of_the_hub_s_mixin_and_back(tmp_path, monkeypatch):
    hub = pytest.importorskip("metasgd.learner.hub", exc_type=UserError)
    remote, learner = tmp_path / "remote", metasgd.load("sinusoid")

    class Api:
        """The Hub as a folder."""

        def __init__(self, token=None):
            pass

        def create_repo(self, repo_id, private, exist_ok):
            (remote / repo_id).mkdir(parents=True)
            return type("Repository", (), {"repo_id": repo_id})

        def upload_folder(self, repo_id, folder_path, **options):
            shutil.copytree(folder_path, remote / repo_id, dirs_exist_ok=True)
            return f"hub/{repo_id}"

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Api)
    for module in ("huggingface_hub.hub_mixin", "metasgd.learner.hub"):
        monkeypatch.setattr(
            f"{module}.hf_hub_download", lambda repo_id, filename, **options: str(remote / repo_id / filename)
        )
    assert hub.HubLearner(learner).push_to_hub("me/curves") == "hub/me/curves"
    assert {p.name for p in (remote / "me/curves").iterdir()} == {"model.safetensors", "config.json", "README.md"}
    assert "library_name: metasgd" in (remote / "me/curves/README.md").read_text()
    for place in (remote / "me/curves", "me/curves"):
        again = hub.HubLearner.from_pretrained(place, trust=False).learner
        np.testing.assert_array_equal(again.adapt(X, Y).predict(X), learner.adapt(X, Y).predict(X))
