import shutil

import pytest
import torch
from support.commands import succeeded
from support.runs import TINY

from metasgd.errors import UserError
from metasgd.learner.load import load
from metasgd.rules.optimizer_network import OptimizerNetwork
from metasgd.runs.checkpoint_schema import CONFIG_KEY


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    options = ["--model.update_rule", "OptimizerNetwork", "--model.inner_steps", "2"]
    succeeded("fit", *TINY, *options, cwd=folder)
    return folder / "runs" / "sinusoid" / "version_0" / "checkpoints" / "last.ckpt"


@pytest.fixture
def last(trained, tmp_path):
    """The checkpoint of a small run, to change at will."""
    return shutil.copy(trained, tmp_path / "last.ckpt")


def test_a_checkpoint_alone_gives_the_learner_back(last):
    loaded = load(last)
    assert isinstance(loaded.module.update_rule, OptimizerNetwork)
    assert loaded.module.inner_steps == 2
    assert loaded.module.outer_steps == 8
    assert loaded.config["data"]["k_shot"] == 5
    saved = torch.load(last, weights_only=True)["state_dict"]
    assert all(torch.equal(t, saved[n]) for n, t in loaded.module.state_dict().items())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda content: content.pop(CONFIG_KEY), "does not carry the configuration"),
        (lambda content: content.update({CONFIG_KEY: "data: {}"}), "cannot be built"),
        (
            lambda content: content.update(
                {CONFIG_KEY: content[CONFIG_KEY].replace("metasgd.nn.MLP", "builtins.print")}
            ),
            "cannot be built",
        ),
        (
            lambda content: content.update({CONFIG_KEY: content[CONFIG_KEY].replace("- 40", "- 30")}),
            "does not fit the model",
        ),
    ],
)
def test_a_checkpoint_that_does_not_say_what_it_holds(last, change, said):
    content = torch.load(last, weights_only=True)
    change(content)
    torch.save(content, last)
    with pytest.raises(UserError, match=said):
        load(last)
