"""Neither a checkpoint nor an option can make the program call what is no class of the kind that it needs."""

import sys

import pytest
import torch
import yaml
from support.runs import ROOT, TINY

from metasgd.cli.main import main
from metasgd.errors import UserError
from metasgd.learner.load import load
from metasgd.optim.learned_optimizer import LearnedOptimizer
from metasgd.runs.checkpoint_schema import CONFIG_KEY

SINUSOID = ROOT / "checkpoints" / "sinusoid" / "model.ckpt"
OPTIMIZER_NETWORK = ROOT / "checkpoints" / "optimizer_network_long" / "model.ckpt"
MINE = """
import pathlib
pathlib.Path("imported").touch()
from torch import nn
from metasgd.nn import MLP
from metasgd.rules import OptimizerNetwork
class Net(MLP):
    pass
class Rule(OptimizerNetwork):
    pass
"""
CALLS = [  # in each the file "called" would appear
    {"class_path": "os.system", "init_args": {"command": "touch called"}},
    {"class_path": "torch.os.system", "init_args": {"command": "touch called"}},
    {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", "called"]}},
    {"class_path": "torch.utils.cpp_extension.subprocess.Popen", "init_args": {"args": ["touch", "called"]}},
    {"class_path": "builtins.eval", "init_args": {"source": "open('called', 'w')"}},
    {"class_path": "torch.utils.data.dataset.os.system", "init_args": {"command": "touch called"}},
    {"class_path": "pathlib.Path.touch", "init_args": {"self": "called"}},
    {"class_path": "torch.hub.load", "init_args": {"repo_or_dir": ".", "model": "x", "source": "local"}},
    {"class_path": "torch.save", "init_args": {"obj": 1, "f": "called"}},
    {"class_path": "torch.nn.Linear.__init__.__globals__"},
    {"class_path": "lightning.pytorch.cli.LightningCLI", "init_args": {}},
    {"class_path": "mine.Net", "init_args": {}},
]
NUM_CHECKPOINTS = [
    ("model", "outer", "optimizer"),
    ("model", "outer", "scheduler"),
    ("model", "network"),
    ("model", "update_rule"),
    ("model", "loss"),
    ("model", "network", "init_args", "hidden"),
    ("model", "network", "init_args", "activation"),
    ("data", "source"),
]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a module of its own, and the program as if it were started there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    monkeypatch.setattr("sys.argv", ["metasgd"])
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path


def altered(checkpoint, place, value, folder):
    """The checkpoint with another value at this place of its configuration."""
    content = torch.load(checkpoint, weights_only=True)
    config = yaml.safe_load(content[CONFIG_KEY])
    options = config
    for name in place[:-1]:
        options = options[name]
    options[place[-1]] = value
    content[CONFIG_KEY] = yaml.safe_dump(config)
    torch.save(content, folder / "x.ckpt")
    return folder / "x.ckpt"


def untouched(folder):
    return sorted(path.name for path in folder.iterdir() if path.name not in ("__pycache__", "x.ckpt")) == ["mine.py"]


@pytest.mark.parametrize("place", NUM_CHECKPOINTS, ids=".".join)
def test_what_a_checkpoint_names_is_not_called(here, place):
    for value in CALLS:
        for given in (value, value["class_path"], yaml.safe_dump(value)):
            path = altered(SINUSOID, place, given, here)
            if place[1] == "outer" or place[0] == "data":  # of training, which a learner does not depend on
                assert load(path).module.inner_steps == 1
            else:
                with pytest.raises(UserError):
                    load(path)
            assert untouched(here), (place, given)


def test_a_list_of_things_to_build_is_not_called(here):
    for value in CALLS:
        with pytest.raises(UserError):
            load(altered(SINUSOID, ("model", "network"), [value], here))
        nested = {"class_path": "torch.nn.TransformerEncoderLayer", "init_args": {"d_model": 4, "nhead": 1}}
        for given in (value, value["class_path"], yaml.safe_dump(value)):
            nested["init_args"]["activation"] = given
            with pytest.raises(UserError, match="class_path|cannot be built|is not a valid"):
                load(altered(SINUSOID, ("model", "network"), nested, here))
    assert untouched(here)


def commands(path):
    return [
        ["adapt", "--ckpt_path", str(path), "--support", ".", "--query", ".", "--output", "o.csv"],
        ["train", "--problem", "Curve", "--network", "metasgd.nn.MLP", "--ckpt_path", str(path)],
        ["compare", "--problem", "Curve", "--network", "metasgd.nn.MLP", "--ckpt_path", str(path)],
        ["report", "run"],
    ]


@pytest.mark.parametrize("n", range(4), ids=["adapt", "train", "compare", "report"])
def test_no_command_calls_what_a_checkpoint_names(here, capfd, n):
    places = [("model", "update_rule")]  # train and compare build no more than the rule
    places += [("model", "network")] * (n in (0, 3)) + [("data", "source")] * (n == 0)
    for place in places:
        path = altered(OPTIMIZER_NETWORK, place, CALLS[0], here)
        if n == 3:
            (here / "run" / "checkpoints").mkdir(parents=True, exist_ok=True)
            (here / "run" / "config.yaml").write_text(torch.load(path, weights_only=True)[CONFIG_KEY])
            path.rename(here / "run" / "checkpoints" / "last.ckpt")
        assert main(commands(path)[n]) == 2
        assert "class_path is os.system" in capfd.readouterr().err
        assert not (here / "called").exists()


def test_validate_and_new_runs_call_nothing_that_a_checkpoint_names(here, caplog):
    path = altered(SINUSOID, ("data", "source"), CALLS[0], here)
    small = [*TINY, "--trainer.max_steps", "1"]
    assert main(["validate", *small, "--ckpt_path", str(path)]) == 0
    assert main(["fit", *small, "--init_from", str(path)]) == 0
    assert not (here / "called").exists()
    assert "os.system, its data source, is not imported" in caplog.text


def test_ones_own_class_is_imported_when_the_checkpoint_is_trusted(here):
    options = yaml.safe_load(torch.load(SINUSOID, weights_only=True)[CONFIG_KEY])["model"]["network"]["init_args"]
    path = altered(SINUSOID, ("model", "network"), {"class_path": "mine.Net", "init_args": options}, here)
    with pytest.raises(UserError, match=r"class_path is mine\.Net: .* the code of 'mine'.*--trust_checkpoint"):
        load(path)
    assert not (here / "imported").exists()
    assert type(load(path, trust=True).module.network).__name__ == "Net"
    assert (here / "imported").exists()


def test_a_learned_optimizer_says_whether_its_checkpoint_is_trusted(here):
    config = yaml.safe_load(torch.load(OPTIMIZER_NETWORK, weights_only=True)[CONFIG_KEY])
    options = config["model"]["update_rule"]["init_args"]
    path = altered(OPTIMIZER_NETWORK, ("model", "update_rule"), {"class_path": "mine.Rule", "init_args": options}, here)
    parameters = [torch.nn.Parameter(torch.zeros(2))]
    with pytest.raises(UserError, match="class_path is mine.Rule"):
        LearnedOptimizer(parameters, checkpoint=path, total_steps=3)
    assert not (here / "imported").exists()
    trusted = LearnedOptimizer(parameters, checkpoint=path, total_steps=3, trust=True)
    assert type(trusted.rule).__name__ == "Rule"
    assert (here / "imported").exists()


@pytest.mark.parametrize("command", ["fit", "train"])
@pytest.mark.parametrize("value", CALLS[:3], ids=lambda value: value["class_path"])
def test_an_option_calls_nothing_that_makes_something_else(here, capfd, command, value):
    if command == "fit":
        whole = yaml.safe_load((ROOT / "configs" / "sinusoid.yaml").read_text())
        places = [*NUM_CHECKPOINTS[:5], NUM_CHECKPOINTS[7]]
        places += [("trainer", name) for name in ("callbacks", "logger", "plugins", "profiler")]
    else:
        whole = {"problem": {"class_path": "metasgd.data.Curve"}, "network": "metasgd.nn.MLP"}
        places = [("network",), ("problem",), ("optimizer",)]
    for place in places:
        for given in (value, value["class_path"]):
            config = yaml.safe_load(yaml.safe_dump(whole))
            options = config
            for name in place[:-1]:
                options = options.setdefault(name, {})
            options[place[-1]] = given
            (here / "x.yaml").write_text(yaml.safe_dump(config))
            try:
                code = main([command, "--config", "x.yaml"])
            except SystemExit as leaving:
                code = leaving.code
            (here / "x.yaml").unlink()
            said = capfd.readouterr().err
            assert code == 2, (place, given, said)
            assert "error: " in said
            assert untouched(here), (place, given)
