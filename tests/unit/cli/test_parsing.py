"""A command from its arguments: networks by classes and functions, and messages in the command's own options."""

import sys
import types

import pytest
import torch
from torch import nn

from metasgd.cli.main import main
from metasgd.cli.options import in_own_names
from metasgd.cli.parsing import ready
from metasgd.nn import Conv4

TRAIN = ["--problem", "Curve", "--problem.points", "60", "--optimizer", "torch.optim.Adam", "--steps", "2"]
TRAIN += ["--batch_size", "10", "--progress", "false"]


@pytest.fixture(autouse=True)
def mine(monkeypatch, tmp_path):
    """A module of the user's, in an empty folder."""
    module = types.ModuleType("mine")

    def make(width: int = 4) -> nn.Module:
        return nn.Sequential(nn.Linear(1, width), nn.Linear(width, 1))

    def small(width: int = 2) -> nn.Module:
        return Conv4(width=width)

    def untyped():
        return nn.Linear(1, 1)

    def liar() -> nn.Module:
        return 3

    class Pair(nn.Linear):
        def __init__(self) -> None:
            super().__init__(1, 1)

        def forward(self, x):
            return (super().forward(x),) if self.training else super().forward(x)

    for made in (make, small, untyped, liar, Pair):
        made.__module__, made.__qualname__ = "mine", made.__name__
        setattr(module, made.__name__, made)
    monkeypatch.setitem(sys.modules, "mine", module)
    monkeypatch.chdir(tmp_path)


def command(*arguments):
    return ready("train", "metasgd train", [*TRAIN, *arguments]).__self__


@pytest.mark.parametrize("width", [3, 7])
def test_a_function_makes_the_network_with_its_own_options(width):
    made = command("--network", "mine.make", "--network.width", str(width))
    torch.manual_seed(0)
    first = made.network()
    second = made.network()
    assert first[0].out_features == width
    assert not torch.equal(first[0].weight, second[0].weight)  # fresh weights at each call
    torch.manual_seed(0)
    assert torch.equal(made.network()[0].weight, first[0].weight)
    assert "class_path: mine.make" in made.config


def test_networks_of_torchvision_are_made_by_functions():
    made = command("--network", "torchvision.models.resnet18", "--network.num_classes", "5").network()
    assert made.fc.out_features == 5


def said(capsys, *arguments):
    try:
        code = main(["train", *TRAIN, *arguments])
    except SystemExit as leaving:
        code = leaving.code
    assert code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--network", "mine.untyped"],
            "network is mine.untyped: give a class of torch.nn.Module, or a function",
        ),
        (["--network", "textwrap.dedent"], "network is textwrap.dedent: give a class of torch.nn.Module"),
        (
            ["--network", "{class_path: textwrap.dedent, init_args: {text: made}}"],
            "network is textwrap.dedent: give a class of torch.nn.Module",
        ),
        (["--network", "mine.liar"], "--network is mine.liar, which made a int and no torch.nn.Module"),
        (["--network", "mine.Pair"], "network: Pair answers a tuple, and one tensor is needed"),
        (
            ["--network", "mine.make", "--network.width", "-1"],
            "--network is mine.make, which cannot be built",
        ),
        (["--network", "torch.nn.Flatten"], "network: Flatten has no parameters"),
        (["--network", "Conv4", "--network.width", "0"], "--network.width is 0: "),
        (["--network", "mine.small", "--network.width", "0"], "--network.width is 0: "),
        (["--network", "mine.make", "--problem.points", "0"], "--problem.points is 0: "),
        (["--network", "mine.make", "--ckpt_path", "resume"], "--ckpt_path is resume, which"),
        (["--network", "mine.make", "--version", "-1"], "version is -1: a whole number from 0"),
        (["--network", "mine.make", "--name", "n" * 300], "--save_dir and --name is "),
    ],
)
def test_a_mistake_is_named_in_trains_own_options(capsys, tmp_path, arguments, message):
    err = said(capsys, *arguments)
    assert message in err
    assert not any(other in err for other in ("model.", "trainer.", "init_args.width", "Traceback"))
    assert not list(tmp_path.iterdir())


def test_options_of_fit_are_named_as_the_commands_own():
    said = "trainer.logger.init_args.save_dir is x; mymodel.network stays; set --model.network.init_args.width"
    assert in_own_names("train", said) == "save_dir is x; mymodel.network stays; set --network.init_args.width"
    assert in_own_names("fit", said) == said
