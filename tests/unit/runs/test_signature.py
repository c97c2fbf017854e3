"""A checkpoint of the user's own may name classes of any package; nobody else's passes for one."""

import os
import stat

import pytest
import torch
import yaml

from metasgd.errors import UserError
from metasgd.learner.load import load
from metasgd.nn import MLP
from metasgd.rules import PerParameter
from metasgd.runs import signature
from metasgd.runs.checkpoint_file import sealed, written_here
from metasgd.runs.checkpoint_schema import CONFIG_KEY
from metasgd.training.module import MetaSGDModule

MINE = """
from metasgd.nn import MLP
class OwnNetwork(MLP):
    pass
"""


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """A user's settings, without a key."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    signature._key.cache_clear()
    yield tmp_path / "settings" / "metasgd" / "signing_key"
    signature._key.cache_clear()


def checkpoint(folder, monkeypatch, signed=True):
    """A checkpoint that names a class of a package that only its maker has."""
    (folder / "own_networks.py").write_text(MINE)
    monkeypatch.syspath_prepend(folder)
    options = {"in_features": 1, "hidden": [4], "out_features": 1}
    module = MetaSGDModule(MLP(**options), PerParameter(0.1), loss="mse")
    rule = {"class_path": "metasgd.rules.PerParameter", "init_args": {"init": 0.1}}
    model = {"network": {"class_path": "own_networks.OwnNetwork", "init_args": options}, "update_rule": rule}
    config = yaml.safe_dump({"model": {**model, "loss": "mse"}, "data": {}})
    plain = folder / "plain.ckpt"
    torch.save({"state_dict": module.state_dict(), CONFIG_KEY: config}, plain)
    if signed:
        plain.write_bytes(sealed(plain.read_bytes()))
    return plain


def refused(path):
    with pytest.raises(UserError, match=r"class_path is own_networks\.OwnNetwork.*--trust_checkpoint"):
        load(path)


def test_ones_own_checkpoint_names_ones_own_classes(settings, tmp_path, monkeypatch):
    path = checkpoint(tmp_path, monkeypatch)
    assert written_here(path)
    learner = load(path)
    assert learner.trusted
    assert type(learner.model.network).__name__ == "OwnNetwork"
    assert stat.S_IMODE(settings.stat().st_mode) == 0o600


def test_the_key_of_another_user_signs_nothing_for_this_one(settings, tmp_path, monkeypatch):
    path = checkpoint(tmp_path, monkeypatch)
    settings.unlink()
    signature._key.cache_clear()
    assert not written_here(path)
    refused(path)


def test_without_a_signature_nothing_is_ones_own(settings, tmp_path, monkeypatch):
    refused(checkpoint(tmp_path, monkeypatch, signed=False))


def test_a_signature_serves_the_bytes_that_it_was_made_for_alone(settings, tmp_path, monkeypatch):
    path = checkpoint(tmp_path, monkeypatch)
    signed = path.read_bytes()
    other = checkpoint(tmp_path, monkeypatch, signed=False)
    content = torch.load(other, weights_only=True)
    content["state_dict"]["network.head.bias"] += 1
    torch.save(content, other)
    resealed = sealed(other.read_bytes())
    other.write_bytes(resealed[:-64] + signed[-64:])  # its own digest, beside another file's signature
    assert not written_here(other)
    refused(other)


def test_without_a_place_for_the_key_checkpoints_are_sealed_and_not_signed(settings, tmp_path, monkeypatch):
    settings.parent.parent.write_text("a file where the folder should be")
    path = checkpoint(tmp_path, monkeypatch)
    assert b"signature" not in path.read_bytes()[-200:]
    refused(path)
    assert load(path, trust=True).trusted


def test_a_key_that_is_cut_short_is_none(settings, tmp_path, monkeypatch):
    settings.parent.mkdir(parents=True)
    settings.write_bytes(os.urandom(5))
    refused(checkpoint(tmp_path, monkeypatch))
