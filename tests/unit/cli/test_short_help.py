"""The help that fits on two screens."""

import inspect
import re

import pytest

from metasgd.cli.main import main
from metasgd.cli.short_help import OF_TRAINER, asks_for_short_help, in_full, short_help
from metasgd.cli.trainer_options import REFUSED_OPTIONS
from metasgd.training.datamodule import EpisodicDataModule
from metasgd.training.module import MetaSGDModule
from metasgd.training.outer import OuterProblem


def test_it_is_two_screens_of_every_option_of_our_own(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "110")
    monkeypatch.setattr("sys.argv", ["metasgd"])
    assert main(["fit", "glyphs", "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 95
    assert max(map(len, lines)) <= 110
    offered = set(re.findall(r"^  --([\w.]+)", "\n".join(lines), re.MULTILINE))
    classes = {"model": MetaSGDModule, "model.outer": OuterProblem, "data": EpisodicDataModule}
    own = {f"{prefix}.{name}" for prefix, made in classes.items() for name in inspect.signature(made).parameters}
    assert own - offered == {"model.outer", "data.outer_steps_per_task"}
    assert len(OF_TRAINER) == 10
    assert not offered & {f"trainer.{name}" for name in REFUSED_OPTIONS}


def test_every_option_has_a_purpose_and_its_default(monkeypatch):
    monkeypatch.setenv("COLUMNS", "110")
    text = " ".join(short_help("test").split())
    for said in (
        "S, inner steps of an adaptation in training (1)",
        "f, any module whose forward takes a batch: Conv4, ",
        "(PerParameter)",
        "of the outer step (Adam)",
        "N, classes in a task (5)",
        "leave the Hessian term out of the meta-gradient (false)",
    ):
        assert said in text
    assert "empty" not in text


@pytest.mark.parametrize("asked", [["fit", "--help", "all"], ["fit", "--help_all"], ["fit", "-h", "all"]])
def test_all_of_it_is_the_parser_s_own(asked):
    assert not asks_for_short_help(asked)
    assert in_full(asked) in (["fit", "--help"], ["fit", "-h"])


@pytest.mark.parametrize("asked", [["train", "--help"], ["fit", "--model.network.help", "Conv4"], [], ["--help"]])
def test_other_help_stays(asked):
    assert not asks_for_short_help(asked)
    assert in_full(asked) == asked
