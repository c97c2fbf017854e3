"""Every shipped configuration, built as ``fit`` would build it."""

import pytest
from support.runs import ROOT

from metasgd.cli.app import MetaSGDCLI
from metasgd.cli.parsing import ready
from metasgd.data.problems import Problem
from metasgd.data.source import Source
from metasgd.training.module import MetaSGDModule

SUPERVISED = ("train_", "compare_")
"""Configurations of commands beside the Trainer's start with the command's name."""
EVERY = sorted((ROOT / "configs").glob("*.yaml"))
CONFIGS = [path for path in EVERY if not path.name.startswith(SUPERVISED)]
OTHERS = [path for path in EVERY if path.name.startswith(SUPERVISED)]
EXPECTED = {
    "image_folder",
    "mini_imagenet",
    "mini_imagenet_resnet12",
    "glyphs",
    "omniglot",
    "omniglot_5w5s",
    "omniglot_20w1s",
    "omniglot_20w5s",
    "optimizer_network",
    "sinusoid",
}
WAYS = {"omniglot_5w5s": (5, 5), "omniglot_20w1s": (20, 1), "omniglot_20w5s": (20, 5), "omniglot": (5, 1)}


def test_the_promised_configurations_are_there():
    assert {path.stem for path in CONFIGS} >= EXPECTED


@pytest.fixture
def built(monkeypatch):
    """Builds everything that a configuration describes, and runs nothing."""
    monkeypatch.setattr(MetaSGDCLI, "_run_subcommand", lambda self, subcommand: None)
    monkeypatch.setattr("sys.argv", ["metasgd"])
    return lambda path, *arguments: MetaSGDCLI(["fit", "--config", str(path), *arguments])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_configuration_is_built_whole(path, built):
    cli = built(path)
    assert isinstance(cli.model, MetaSGDModule)
    assert isinstance(cli.datamodule.source, Source)
    assert cli.trainer.max_steps > 0
    assert cli.trainer.val_check_interval <= cli.trainer.max_steps
    assert cli.trainer.logger.name == path.stem
    optimizer = cli.model.outer.make_optimizer(cli.model.network, cli.model.update_rule)
    scheduler = cli.model.outer.make_scheduler(optimizer, cli.trainer.max_steps)
    assert scheduler.get_last_lr()[0] > 0
    if path.stem in WAYS:
        shape = cli.datamodule.train_shapes[0]
        assert (shape.n_way, shape.k_shot) == WAYS[path.stem]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_takes_overrides(path, built):
    arguments = ["--data.meta_batch_size", "2", "--model.inner_steps", "3", "--model.first_order", "true"]
    arguments += ["--model.estimator", "unrolled"]
    cli = built(path, *arguments, "--model.update_rule", "Scalar", "--data.seed", "7", "--data.root", "elsewhere")
    assert cli.datamodule.meta_batch_size == 2
    assert cli.datamodule.seed == 7
    assert str(cli.datamodule.root) == "elsewhere"
    assert cli.model.inner_steps == 3
    assert cli.model.first_order
    assert type(cli.model.update_rule).__name__ == "Scalar"


@pytest.mark.parametrize("path", OTHERS, ids=lambda path: path.stem)
def test_a_configuration_of_another_command_is_built_whole(path):
    command = path.stem.split("_")[0]
    built = ready(command, f"metasgd {command}", ["--config", str(path)]).__self__
    assert isinstance(built.problem, Problem)
    assert list(built.network().parameters())
    assert built.steps > 0
    assert built.name == path.stem
