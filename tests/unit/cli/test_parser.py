"""What is said of options that cannot be; the parser itself is asked."""

from enum import Enum

import pytest
import yaml
from lightning.pytorch.callbacks import Callback
from torch import nn

from metasgd.cli.main import main
from metasgd.cli.parser import CHOICES, CommandParser, explained

CONFIG = ["--config", "configs/glyphs.yaml"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["fit", "--model.inner_stpes", "3"],
            "no such option: --model.inner_stpes 3. Did you mean --model.inner_steps",
        ),
        (["fit", "--data.n_wya=3"], "Did you mean --data.n_way for --data.n_wya?"),
        (["fit", "--nonsense"], "no such option: --nonsense.\n"),
        (["fit", "--data.k_shot", "x"], "data.k_shot is x: a whole number is needed\n"),
        (["fit", "--model.first_order", "maybe"], "model.first_order is maybe: true or false is needed\n"),
        (["fit", "--model.update_rule", "Adam"], "model.update_rule is Adam: use PerParameter, OptimizerNetwork, "),
        (["fit", "--data.source", "omniglot"], "data.source is omniglot: use Glyphs, Omniglot, "),
        (["train", "--problem", "Nothing"], "problem is Nothing: use ManyClasses, Curve, or the import path"),
        (["compare", "--stepps", "3"], "no such option: --stepps 3. Did you mean --steps for --stepps?"),
        (["fti"], "invalid choice: 'fti' (choose from 'fit', "),
    ],
)
def test_one_message_without_the_usage(arguments, said, capsys, monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)
    config = CONFIG if arguments[0] == "fit" else []
    monkeypatch.setattr("sys.argv", ["metasgd", arguments[0], *config, *arguments[1:]])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    printed = capsys.readouterr().err
    assert said in printed
    assert "usage:" not in printed
    assert printed.rstrip().endswith("--help")
    assert "[options]" not in printed


def test_other_messages_stay_as_they_are():
    assert explained("File does not exist", []) == "File does not exist"


def test_every_choice_can_be_given_by_its_name_alone():
    names = [cls.__name__ for choices in CHOICES.values() for cls in choices]
    assert len(set(names)) == len(names)


def test_a_default_that_no_file_can_hold_is_left_to_the_class():
    """As torchvision's vision transformer has: written down, it would be a text that builds nothing."""
    parser = CommandParser(exit_on_error=False)
    parser.add_argument("--network", type=nn.Module)
    sizes = {"image_size": 8, "patch_size": 4, "num_layers": 1, "num_heads": 1, "hidden_dim": 4, "mlp_dim": 4}
    options = [f"--network.init_args.{name}={size}" for name, size in sizes.items()]
    config = parser.parse_args(["--network", "torchvision.models.VisionTransformer", *options])
    assert "norm_layer" in config.network.init_args
    written = parser.dump(config)
    assert "norm_layer" not in written
    again = parser.instantiate(parser.parse_string(written)).network
    assert again.encoder.ln.eps == 1e-6  # which its own default sets
    assert "norm_layer" in config.network.init_args


class Colour(Enum):
    """A type of an option."""

    RED = "the colour of blood"


@pytest.mark.parametrize("kind", [Callback, Callback | list[Callback]])
def test_a_default_of_an_enumeration_is_written_as_its_value(kind):
    """As Lightning's Timer has, whose option is a text."""
    parser = CommandParser(exit_on_error=False)
    parser.add_argument("--callback", type=kind)
    parser.add_argument("--colour", type=Colour)
    config = parser.parse_args(["--callback", "Timer", "--callback.duration", "00:01:00:00", "--colour", "RED"])
    written = parser.dump(config)
    assert yaml.safe_load(written)["callback"]["init_args"]["interval"] == "step"
    again = parser.parse_string(written)
    assert again.colour is Colour.RED
    assert parser.dump(again) == written
