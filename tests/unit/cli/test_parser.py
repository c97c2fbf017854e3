"""What is said of options that cannot be; the parser itself is asked."""

from enum import Enum

import pytest
import yaml
from lightning.pytorch.callbacks import Callback
from torch import nn

from metasgd.cli.main import main
from metasgd.cli.parser import CommandParser, with_paths

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
        (["fit", "--model.update_rule", "Adam"], "model.update_rule is Adam: use ALFA, Fixed, "),
        (["fit", "--data.source", "omniglot"], "data.source is omniglot: use Glyphs, Omniglot, "),
        (["train", "--problem", "Nothing"], "problem is Nothing: use ManyClasses, Curve, or the import path"),
        (["compare", "--stepps", "3"], "no such option: --stepps 3. Did you mean --steps for --stepps?"),
        (
            ["fit", "--model.loss", "crossentropy"],
            "use cross_entropy, mse, PolicyGradient, or the import path of a class",
        ),
        (["fit", "--model.update_rule", "ScheduledMuo"], "of yours. Did you mean ScheduledMuon?\n"),
        (
            ["fit", "--model.network.init_args.widht", "3"],
            "error: no such option: model.network.init_args.widht. Did you mean model.network.init_args.width?\n"
            "All options: python -m metasgd fit --model.network.help metasgd.nn.Conv4",
        ),
        (["fit", "--model.network.width", "x"], "model.network.init_args.width is x: use a whole number or a list\n"),
        (
            ["fit", "--model.outer.optimizer", "SGD", "--model.outer.optimizer.momentm", "3"],
            "error: no such option: model.outer.optimizer.init_args.momentm. Did you mean"
            " model.outer.optimizer.init_args.momentum?\n",
        ),
        (
            ["fit", "--model.outer.optimizer.lr", "x"],
            "model.outer.optimizer.init_args.lr is x: use a number or a class by",
        ),
        (["fit", "--trainer.precision", "foo"], "trainer.precision is foo: use 64, 32, 16, transformer-engine, "),
        (
            ["fit", "--model.outer.scheduler", "cosin"],
            "model.outer.scheduler is cosin: use cosine, a class by its name or import path, or null. Did you mean"
            " cosine?\n",
        ),
        (
            ["fit", "--model.estimator", "foo"],
            "model.estimator is foo: use unrolled, reptile, implicit, pes, or a class",
        ),
        (["fit", "--model.outer.optimizer", "torch.optim.Adamm"], "there is none. Did you mean torch.optim.Adam?\n"),
        (
            ["fit", "--model.outer", "cosine"],
            "error: model.outer is cosine, which is no file of options: give one, or single options, as"
            " --model.outer.optimizer and --model.outer.",
        ),
        (["fit", "--trainer.callbacks+=EarlyStoping"], "Did you mean EarlyStopping?\n"),
        (
            ["fit", "--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.patience=x"],
            "error: trainer.callbacks.init_args.patience is x: a whole number is needed\n",
        ),
        (["adapt", "--query", "here"], "error: --support and --output are missing\n"),
        (["report"], "error: run is missing\n"),
        (["fti"], "invalid choice: 'fti' (choose from 'fit', "),
    ],
)
def test_one_message_without_the_usage(arguments, said, capsys, monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)
    config = CONFIG if arguments[0] == "fit" else []
    monkeypatch.setattr("sys.argv", ["python -m metasgd", arguments[0], *config, *arguments[1:]])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    printed = capsys.readouterr().err
    assert said in printed
    assert "usage:" not in printed
    assert printed.count("\n") == 2
    assert "All options: " in printed
    assert "Expected" not in printed
    assert "[options]" not in printed


def test_an_option_that_only_a_configuration_has(tmp_path, capsys):
    config = tmp_path / "own.yaml"
    config.write_text("data: {n_wya: 3}\n")
    with pytest.raises(SystemExit):
        main(["fit", "glyphs", "--config", str(config)])
    assert "no such option: data.n_wya, in a configuration. Did you mean --data.n_way?\n" in capsys.readouterr().err


def test_a_command_alone_is_answered_with_where_its_options_come_from(capsys):
    with pytest.raises(SystemExit):
        main(["fit"])
    assert capsys.readouterr().err == (
        "error: --model.network and --data.source are missing: give a configuration, as python -m metasgd fit glyphs"
        " does; python -m metasgd configs lists them\nAll options: python -m metasgd fit --help\n"
    )


def test_every_choice_can_be_given_by_its_name_alone():
    for words in (["--network", "MLP"], ["--network=MLP"], ["--network.class_path", "MLP"]):
        parser = CommandParser()
        parser.add_argument("--network", type=nn.Module)  # torchvision has an MLP, too
        assert parser.parse_args(words).network.class_path == "metasgd.nn.MLP"


def test_words_that_are_no_choices_of_their_option_stay():
    assert with_paths(["--run.name", "MLP", "--config=MLP", "--x", "a=b", "MLP"]) == [
        *("--run.name", "MLP", "--config=MLP", "--x", "a=b", "MLP")
    ]


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


def test_what_lightning_refuses_of_a_callback_is_named_by_its_option(capsys):
    assert main(["fit", "sinusoid", "--trainer.callbacks+=Timer", "--trainer.callbacks.duration=x"]) == 2
    said = capsys.readouterr().err
    assert "trainer.callbacks is Timer: `Timer(duration='x')` is not a valid duration" in said
