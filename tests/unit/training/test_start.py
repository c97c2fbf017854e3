"""What a command starts from; through the real command line in test_cli_fit."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from conftest import TINY
from torch import nn

from metasgd.data.glyphs.source import Glyphs
from metasgd.data.images.image_folder import ImageFolder
from metasgd.data.sinusoid import Sinusoid
from metasgd.errors import UserError
from metasgd.learner.load import load
from metasgd.runs.folders import CONFIG_KEY
from metasgd.training.start import initialise, require_checkpoint


@pytest.fixture(scope="module")
def last(tmp_path_factory):
    """The checkpoint of a small run."""
    folder = tmp_path_factory.mktemp("trained")
    command = [sys.executable, "-m", "metasgd", "fit", *TINY, "--model.inner_steps", "2"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder / "runs" / "sinusoid" / "version_0" / "checkpoints" / "last.ckpt"


def test_a_learner_starts_from_the_weights_of_another(last):
    learner = load(last)
    with torch.no_grad():
        for p in learner.module.parameters():
            p.zero_()
    initialise(learner.module, str(last), learner.config, Sinusoid())
    saved = torch.load(last, weights_only=True)["state_dict"]
    assert saved.pop("outer_steps") == 8
    own = learner.module.state_dict()
    assert own.pop("outer_steps") == 0
    assert list(own) == list(saved)
    assert all(torch.equal(t, saved[n]) for n, t in own.items())


@pytest.mark.parametrize(
    ("place", "said"),
    [("gone.ckpt", "--init_from is gone.ckpt, which is not there"), (".", r"--init_from is \., which is a folder")],
)
def test_weights_to_start_from_that_are_not_there(last, place, said):
    learner = load(last)
    with pytest.raises(UserError, match=said):
        initialise(learner.module, place, learner.config, Sinusoid())


def test_weights_of_another_architecture_are_no_start(last):
    learner = load(last)
    learner.module.network = nn.Linear(2, 3)
    with pytest.raises(UserError, match=r"last\.ckpt does not fit the model: network\..* tensors differ"):
        initialise(learner.module, str(last), learner.config, Sinusoid())


def test_drawings_of_the_other_ink_are_refused_with_what_to_do(last, tmp_path):
    learner = load(last)
    content = torch.load(last, weights_only=True)
    config = yaml.safe_load(content[CONFIG_KEY])
    config["data"]["source"] = {"class_path": "metasgd.data.Glyphs", "init_args": {}}
    content[CONFIG_KEY] = yaml.safe_dump(config)
    known = tmp_path / "drawings.ckpt"
    torch.save(content, known)
    dark = ImageFolder(image_size=28, channels=1, ink="dark")
    with pytest.raises(UserError, match=r"trained on light ink, but data.source has dark ink\..*invert true"):
        initialise(learner.module, str(known), learner.config, dark)
    for source in (Glyphs(), ImageFolder(image_size=28, channels=1), Sinusoid()):
        initialise(learner.module, str(known), learner.config, source)


def test_random_weights_are_not_judged():
    with pytest.raises(UserError, match="--ckpt_path is missing: test judges a checkpoint.*of the name glyphs"):
        require_checkpoint("test", "glyphs")


def test_the_same_run_goes_on_and_others_are_refused(last, metasgd):
    run = last.parents[1]
    before = {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}
    folder = ["--trainer.logger.init_args.save_dir", str(Path(run).parents[1])]
    same = [*TINY, "--model.inner_steps", "2", *folder]
    changed = ["--model.inner_steps", "1", "--model.first_order", "true", "--model.outer.gradient_clip_norm", "3"]
    refused = metasgd("fit", *same, *changed, "--data.k_shot", "3", "--data.seed", "3", "--ckpt_path", "last")
    assert refused.returncode == 2
    for said in (
        "its model.inner_steps is 2, the configured one 1",
        "its model.first_order is False, the configured one True",
        "its model.outer.gradient_clip_norm is",
        "its data.k_shot is 5, the configured one 3",
        "its data.seed is 0, the configured one 3",
        "--init_from",
    ):
        assert said in refused.stderr
    assert {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()} == before
    evaluated = metasgd("validate", *same, "--model.inner_steps", "3", "--ckpt_path", "last")
    assert evaluated.returncode == 0
    assert "last.ckpt of outer step 8" in evaluated.stderr
    assert "unlike its training: its model.inner_steps is 2, the configured one 3" in evaluated.stderr
    untrained = metasgd("test", *same)
    assert untrained.returncode == 2
    assert "--ckpt_path is missing" in untrained.stderr
    elsewhere = ["--data.val_tasks", "7", "--data.num_workers", "1", "--model.engine", "loop"]
    done = metasgd("fit", *same, *elsewhere, "--trainer.max_steps", "12", "--ckpt_path", "last")
    assert done.returncode == 0, done.stderr
    assert "last.ckpt after 12 outer steps, best.ckpt with val/mse" in done.stdout
