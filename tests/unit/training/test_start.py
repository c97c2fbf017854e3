"""What a command starts from; through the real command line in test_cli_fit."""

from pathlib import Path

import pytest
import torch
import yaml
from support.commands import succeeded
from support.runs import TINY
from torch import nn
from upath import UPath

from metasgd.data.glyphs.source import Glyphs
from metasgd.data.images.image_folder import ImageFolder
from metasgd.data.sinusoid import Sinusoid
from metasgd.errors import UserError
from metasgd.learner.load import load
from metasgd.nn import Conv4
from metasgd.rules import PerLayerPerStep, PerParameter
from metasgd.runs.checkpoint_schema import CONFIG_KEY
from metasgd.runs.folders import Start
from metasgd.training.module import MetaSGDModule
from metasgd.training.start import initialise, require_checkpoint, validate_pictures


@pytest.fixture(scope="module")
def last(tmp_path_factory):
    """The checkpoint of a small run."""
    folder = tmp_path_factory.mktemp("trained")
    succeeded("fit", *TINY, "--model.inner_steps", "2", cwd=folder)
    return folder / "runs" / "sinusoid" / "version_0" / "checkpoints" / "last.ckpt"


def test_a_learner_starts_from_the_weights_of_another(last):
    learner = load(last)
    with torch.no_grad():
        for p in learner.module.parameters():
            p.zero_()
    initialise(learner.module, str(last), learner.config, Sinusoid(), fit=True)
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
        initialise(learner.module, place, learner.config, Sinusoid(), fit=True)


def test_weights_of_another_architecture_are_no_start(last):
    learner = load(last)
    learner.module.network = nn.Linear(2, 3)
    with pytest.raises(UserError, match=r"last\.ckpt does not fit the model: network\..* tensors differ"):
        initialise(learner.module, str(last), learner.config, Sinusoid(), fit=True)


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
        initialise(learner.module, str(known), learner.config, dark, fit=True)
    for source in (Glyphs(), ImageFolder(image_size=28, channels=1), Sinusoid()):
        initialise(learner.module, str(known), learner.config, source, fit=True)


def test_a_prototype_head_starts_from_the_layers_below_another_head(last, tmp_path):
    small = {"in_channels": 1, "image_size": 8, "width": 4}
    before = MetaSGDModule(Conv4(n_way=3, head="linear", **small), PerParameter(0.1))
    content = torch.load(last, weights_only=True)
    config = yaml.safe_load(content[CONFIG_KEY])
    config["model"]["network"] = {"class_path": "metasgd.nn.Conv4", "init_args": {**small, "head": "linear"}}
    config["model"]["update_rule"] = {"class_path": "metasgd.rules.PerParameter", "init_args": {"init": 0.1}}
    content |= {CONFIG_KEY: yaml.safe_dump(config), "state_dict": before.state_dict()}
    torch.save(content, tmp_path / "linear.ckpt")
    config["model"]["network"]["init_args"]["head"] = "prototype"
    place = str(tmp_path / "linear.ckpt")
    torch.manual_seed(1)
    after = MetaSGDModule(Conv4(head="prototype", **small), PerParameter(0.01))
    own = {n: t.clone() for n, t in after.state_dict().items()}
    with pytest.raises(UserError, match=r"linear\.ckpt does not fit the model"):  # an evaluation takes all or nothing
        initialise(after, place, config, Glyphs(), fit=False)
    initialise(after, place, config, Glyphs(), fit=True)
    for n, t in after.state_dict().items():
        below = n.startswith("network.") and not n.startswith("network.head.")
        assert torch.equal(t, before.state_dict()[n] if below else own[n]), n
    config["model"]["network"]["init_args"]["features"] = "normalised"
    with pytest.raises(UserError, match="features is rectified, the configured one normalised"):
        initialise(after, place, config, Glyphs(), fit=True)


def test_an_update_rule_that_took_no_step_is_not_taken_over(last, tmp_path):
    """One that was never used would otherwise override the initial rates that were asked for."""
    small = {"in_channels": 1, "image_size": 8, "width": 4, "head": "prototype"}
    before = MetaSGDModule(Conv4(**small), PerParameter(0.1), inner_steps=0)
    content = torch.load(last, weights_only=True)
    config = yaml.safe_load(content[CONFIG_KEY])
    config["model"]["network"] = {"class_path": "metasgd.nn.Conv4", "init_args": small}
    config["model"]["update_rule"] = {"class_path": "metasgd.rules.PerParameter", "init_args": {"init": 0.1}}
    config["model"]["inner_steps"] = 0
    content |= {CONFIG_KEY: yaml.safe_dump(config), "state_dict": before.state_dict()}
    place = str(tmp_path / "without.ckpt")
    torch.save(content, place)
    torch.manual_seed(1)
    for rule in (PerParameter(0.01), PerLayerPerStep(0.02)):  # nor need it be of the same kind
        after = MetaSGDModule(Conv4(**small), rule)
        own = {n: t.clone() for n, t in after.state_dict().items()}
        initialise(after, place, config, Glyphs(), fit=True)
        for n, t in after.state_dict().items():
            assert torch.equal(t, before.state_dict()[n] if n.startswith("network.") else own[n]), n
    after = MetaSGDModule(Conv4(**small), PerParameter(0.01), inner_steps=0)
    initialise(after, place, config, Glyphs(), fit=False)  # an evaluation takes all
    assert all(torch.equal(t, before.state_dict()[n]) for n, t in after.state_dict().items())
    config["model"]["network"]["init_args"] |= {"features": "normalised"}
    with pytest.raises(UserError, match="features is rectified, the configured one normalised"):
        initialise(after, place, config, Glyphs(), fit=True)


def test_random_weights_are_not_evaluated():
    with pytest.raises(UserError, match="--ckpt_path is missing: test evaluates a checkpoint.*of the name glyphs"):
        require_checkpoint("test", "glyphs")


def contents(run):
    return {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}


def test_the_same_run_resumes_and_others_are_refused(last, metasgd):
    run = last.parents[1]
    before = contents(run)
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
    assert contents(run) == before
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


CONTENTS = {"train": {"ant": (9, "a"), "bee": (9, "b")}, "val": {"cow": (9, "c")}, "test": {"dog": (9, "d")}}


def start_with(contents):
    return Start(None, UPath("last.ckpt"), {"EpisodicDataModule": {"contents": contents}})


def test_a_run_is_resumed_with_the_pictures_that_it_began_with():
    validate_pictures(start_with(CONTENTS), CONTENTS, "fit")
    validate_pictures(Start(None, None), CONTENTS, "fit")
    validate_pictures(Start(None, UPath("old.ckpt"), {"state_dict": {}}), CONTENTS, "fit")  # says nothing of them
    other = {**CONTENTS, "train": {"ant": (9, "a"), "elk": (3, "e")}}
    with pytest.raises(UserError, match=r"last.ckpt was trained on other pictures.*1 class of train new, such as elk"):
        validate_pictures(start_with(CONTENTS), other, "fit")


@pytest.mark.parametrize(("stage", "split"), [("validate", "val"), ("test", "test"), ("predict", "test")])
def test_no_class_that_was_trained_on_is_evaluated_as_unseen(stage, split, capsys):
    validate_pictures(start_with(CONTENTS), CONTENTS, stage)
    moved = {**CONTENTS, "train": {"ant": (9, "a")}, split: {**CONTENTS[split], "bee": (9, "b")}}
    with pytest.raises(UserError, match=f"trained on 1 of the 2 classes of the {split} split, such as bee"):
        validate_pictures(start_with(CONTENTS), moved, stage)
    validate_pictures(start_with(CONTENTS), {split: {"bee": (5, "x"), "yak": (5, "y")}}, stage)  # another data set


@pytest.mark.parametrize("damaged", [3, {"train": 3}, {"train": {"ant": "a"}}])
def test_damaged_contents_of_a_checkpoint_are_refused(damaged):
    with pytest.raises(UserError, match="last.ckpt cannot be used: what it says of its pictures is damaged"):
        validate_pictures(start_with(damaged), CONTENTS, "test")
