"""What the command line refuses, and how; in this process, where that says as much as in another."""

import pickle
import re
from importlib.metadata import version

import pytest
import torch
from support.runs import ROOT, TINY

import metasgd
from metasgd.cli.app import MetaSGDCLI
from metasgd.cli.commands import COMMANDS
from metasgd.cli.main import main
from metasgd.cli.overview import PURPOSES

GLYPHS = ["--config", str(ROOT / "configs" / "glyphs.yaml")]
OMNIGLOT = ["--config", str(ROOT / "configs" / "omniglot.yaml")]
NET, RULE = "model.network.init_args.", "model.update_rule.init_args."


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("sys.argv", ["metasgd"])


def run(*arguments):
    """The exit code, whichever way it comes."""
    try:
        return main([str(a) for a in arguments])
    except SystemExit as leaving:
        return leaving.code


CASES = {
    # what jsonargparse finds
    "no command": ([], "expected"),
    "unknown command": (["fot", *TINY], "fot"),
    "nothing to train": (["fit"], "model.network"),
    "unknown option": (["fit", *TINY, "--data.nway", "5"], "data.nway"),
    "misspelt option": (["fit", *TINY, "--model.outer.altrnate", "5"], "altrnate"),
    "no number": (["fit", *TINY, "--data.n_way", "five"], "data.n_way"),
    "a fraction": (["fit", *TINY, "--data.k_shot", "1.5"], "data.k_shot"),
    "no truth value": (["fit", *TINY, "--model.first_order", "perhaps"], "model.first_order"),
    "unknown rule": (["fit", *TINY, "--model.update_rule", "Scalr"], "Scalr"),
    "unknown network": (["fit", *TINY, "--model.network", "metasgd.nn.networks.Conv5"], "Conv5"),
    "unknown source": (["fit", *TINY, "--data.source", "metasgd.data.nowhere.Nothing"], "nowhere"),
    "another's option": (
        ["fit", *TINY, "--model.update_rule", "Scalar", "--model.update_rule.init_args.hidden", "3"],
        "hidden",
    ),
    "unknown loss": (["fit", *TINY, "--model.loss", "hinge"], "model.loss"),
    "unknown engine": (["fit", *TINY, "--model.engine", "warp"], "model.engine"),
    "unknown split": (["fit", *OMNIGLOT, "--data.source.init_args.split", "ofical"], "split"),
    "unknown head": (["fit", *GLYPHS, "--model.network.init_args.head", "none"], "head"),
    "no config": (["fit", "--config", "nothere.yaml"], "nothere.yaml"),
    # what the options' owners find
    "no inner step": (["fit", *TINY, "--model.inner_steps", "0"], "model.inner_steps is 0: at least 1"),
    "pattern without parameter": (["fit", *TINY, "--model.adapts", "tail"], "model.adapts has 'tail'"),
    "no width": (["fit", *GLYPHS, "--model.network.init_args.width", "0"], f"{NET}width is 0: use"),
    "three widths": (["fit", *GLYPHS, "--model.network.init_args.width", "[8, 8, 8]"], f"{NET}width is [8, 8, 8]: use"),
    "momentum": (
        ["fit", *TINY, "--model.update_rule", "Fixed", "--model.update_rule.init_args.momentum", "1"],
        f"{RULE}momentum is 1.0",
    ),
    "bounds": (["fit", *TINY, "--model.update_rule.init_args.bounds", "[1, 0]"], f"{RULE}bounds is [1.0, 0.0]"),
    "range upside down": (
        ["fit", *TINY, "--model.update_rule.init_args.init", "[0.1, 0.01]"],
        f"{RULE}init is (0.1, 0.01)",
    ),
    "alternation": (["fit", *TINY, "--model.outer.alternate", "-1"], "model.outer.alternate is -1"),
    "clip": (["fit", *TINY, "--model.outer.gradient_clip_norm", "0"], "model.outer.gradient_clip_norm is 0.0"),
    "no tasks": (["fit", *TINY, "--data.meta_batch_size", "0"], "data.meta_batch_size is 0"),
    "no shot": (["fit", *TINY, "--data.k_shot", "0"], "data.k_shot is 0"),
    "no query": (["fit", *TINY, "--data.n_query", "0"], "data.n_query is 0"),
    "negative seed": (["fit", *TINY, "--data.seed", "-1"], "data.seed is -1"),
    "image size": (
        ["fit", *OMNIGLOT, "--data.source.init_args.image_size", "1000"],
        "data.source.init_args.image_size is 1000",
    ),
    "curves have no classes": (["fit", *TINY, "--data.n_way", "3"], "data.n_way is 3: a curve has no classes"),
    "no data": (["fit", *OMNIGLOT, "--data.root", "empty"], "configs/glyphs.yaml"),
    "network and tasks": (
        ["fit", *TINY, "--model.network", "metasgd.nn.Conv4"],
        "model.network is Conv4, built for images of shape (1, 28, 28), but the tasks' have (1,)",
    ),
    "unknown setting of the optimizer": (
        ["fit", *TINY, "--model.outer.rule_settings", '{"rate": 1}'],
        "rule_settings has rate, which Adam does not know",
    ),
    "nothing to learn": (
        ["fit", *TINY, "--model.update_rule", "Fixed", "--model.outer.freeze_network", "true"],
        "Fixed has nothing to learn",
    ),
    "too few tasks for the processes": (
        [
            "fit",
            *TINY,
            "--data.meta_batch_size",
            "3",
            "--trainer.devices",
            "3",
            "--trainer.strategy",
            "ddp",
            "--data.val_tasks",
            "2",
        ],
        "data.val_tasks is 2, but there are 3 processes",
    ),
    "a meta-batch that two cannot share": (
        ["fit", *TINY, "--trainer.devices", "2", "--trainer.strategy", "ddp", "--data.meta_batch_size", "5"],
        "data.meta_batch_size is 5, which cannot be divided over 2 processes: use 4 or 6",
    ),
    "no such device": (["fit", *TINY, "--trainer.accelerator", "tpu"], "trainer.accelerator is tpu"),
    "half precision": (["fit", *TINY, "--trainer.precision", "16-mixed"], "trainer.precision is 16-mixed, but float16"),
    "never a checkpoint": (["fit", *TINY, "--last_checkpoint.every_n_steps", "0"], "every_n_steps is 0: at least 1"),
    "misspelt strategy": (["fit", *TINY, "--trainer.strategy", "dpp"], "trainer.strategy is dpp"),
    "misspelt accelerator": (["fit", *TINY, "--trainer.accelerator", "gpuu"], "trainer.accelerator is gpuu"),
    "all devices": (["fit", *TINY, "--trainer.devices", "-1"], "trainer.devices is -1"),
    "spawned processes": (
        ["fit", *TINY, "--trainer.strategy", "ddp_spawn", "--trainer.devices", "2"],
        "trainer.strategy is ddp_spawn",
    ),
    "a monitor that is not logged": (
        ["fit", *TINY, "--trainer.callbacks", "EarlyStopping", "--trainer.callbacks.monitor", "val/accuracy"],
        "EarlyStopping with monitor val/accuracy, which is not logged: use val/loss",
    ),
    "dense gradients": (["fit", *TINY, "--model.outer.optimizer", "SparseAdam"], "SparseAdam, which cannot take an"),
    "a short schedule": (
        [
            *("fit", *TINY, "--model.outer.scheduler", "OneCycleLR", "--model.outer.scheduler.init_args.max_lr", "0.1"),
            *("--model.outer.scheduler.init_args.total_steps", "7"),
        ],
        "OneCycleLR of 7 steps, but the run takes 8",
    ),
    "inference mode": (["validate", *TINY, "--trainer.inference_mode", "true"], "trainer.inference_mode is true"),
    "nothing to resume": (["fit", *TINY, "--ckpt_path", "last"], "--ckpt_path is last, but no run in"),
    "no best": (["test", *TINY, "--ckpt_path", "best"], "--ckpt_path is best, but no run in"),
    "no such checkpoint": (["test", *TINY, "--ckpt_path", "none.ckpt"], "which is not there"),
    "a folder as checkpoint": (["test", *TINY, "--ckpt_path", "."], "which is a folder"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_mistake_ends_in_one_message_and_exit_code_2(case, capsys, tmp_path):
    arguments, said = CASES[case]
    assert run(*arguments) == 2
    printed = capsys.readouterr().err
    assert said in printed
    assert "Traceback" not in printed
    assert not (tmp_path / "runs").exists() or not [p for p in (tmp_path / "runs").rglob("*") if p.is_file()]


def test_a_config_that_is_no_yaml(tmp_path, capsys):
    for content in ("a: [1, 2", "\x00\x01", "just words", "- 1\n- 2\n"):
        (tmp_path / "broken.yaml").write_text(content)
        assert run("fit", "--config", "broken.yaml") == 2
        assert re.search("error: (Problems parsing|Unexpected) config", capsys.readouterr().err)


def test_a_config_that_is_no_text(tmp_path, capsys):
    (tmp_path / "broken.yaml").write_bytes(b"\xff\xfe\x00 no text")
    assert run("fit", "--config", "broken.yaml") == 2
    assert "error: --config: a configuration is not text in UTF-8" in capsys.readouterr().err


def test_all_the_problems_of_a_configuration_in_one_message(capsys):
    assert run("fit", *TINY, "--data.meta_batch_size", "0", "--data.val_tasks", "0", "--data.num_workers", "-2") == 2
    printed = capsys.readouterr().err
    assert all(option in printed for option in ("meta_batch_size is 0", "val_tasks is 0", "num_workers is -2"))


DAMAGED = {
    "empty": lambda whole: b"",
    "text": lambda whole: b"These are notes about the run.\n",
    "truncated": lambda whole: whole[: len(whole) * 2 // 3],
    "a pickle": lambda whole: pickle.dumps({"state_dict": {}}),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_checkpoint_is_refused(damage, tmp_path, capsys):
    path = tmp_path / "x.ckpt"
    torch.save({"state_dict": {"a": torch.zeros(100)}}, path)
    path.write_bytes(DAMAGED[damage](path.read_bytes()))
    assert run("test", *TINY, "--ckpt_path", path) == 2
    assert "x.ckpt cannot be read" in capsys.readouterr().err


OTHER_MODELS = [
    (["--model.network.init_args.hidden", "[40]"], "network.body.3.weight"),
    (["--model.update_rule", "Scalar"], "update_rule"),
    (["--model.update_rule", "OptimizerNetwork"], "update_rule"),
    (["--model.network.init_args.out_features", "2"], "head"),
]


def test_a_checkpoint_of_another_model_is_refused(capsys, tmp_path):
    assert run("fit", *TINY) == 0
    before = sorted(tmp_path.rglob("*"))
    for change, said in OTHER_MODELS:
        capsys.readouterr()
        assert run("test", *TINY, *change, "--ckpt_path", "last") == 2, change
        printed = capsys.readouterr().err
        assert "does not fit the model" in printed
        assert said in printed
        assert sorted(tmp_path.rglob("*")) == before


CHANGES = {
    "weights alone": (
        lambda c: [c.pop(k) for k in list(c) if k != "state_dict"],
        [],
        "pytorch-lightning_version, loops",
    ),
    "no version": (lambda c: c.pop("pytorch-lightning_version"), [], "but not pytorch-lightning_version"),
    "no loops": (lambda c: c.pop("loops"), [], "but not loops"),
    "weights that are none": (lambda c: c.update(state_dict=[1]), [], "is not a checkpoint of metasgd"),
    "another optimizer": (lambda c: None, ["--model.outer.optimizer", "SGD"], "its optimizer is Adam, the configured"),
    "one of the same settings": (lambda c: None, ["--model.outer.optimizer", "AdamW"], "the configured one AdamW"),
    "another learning rate": (
        lambda c: None,
        ["--model.outer.optimizer.init_args.lr", "0.5"],
        "its optimizer has lr 0.001, the configured one 0.5",
    ),
    "no schedule": (
        lambda c: None,
        ["--model.outer.scheduler", "null"],
        "its schedule is LambdaLR, the configured one none",
    ),
    "another outer problem": (
        lambda c: None,
        ["--model.outer.freeze_network", "true"],
        "groups of [6, 6] tensors, the configured one of [6]",
    ),
}


def test_a_checkpoint_that_training_cannot_resume_from_is_refused(capsys, tmp_path):
    assert run("fit", *TINY) == 0
    whole = torch.load(tmp_path / "runs/sinusoid/version_0/checkpoints/last.ckpt", weights_only=True)
    for change, options, said in CHANGES.values():
        content = dict(whole)
        change(content)
        torch.save(content, tmp_path / "x.ckpt")
        assert run("fit", *TINY, *options, "--ckpt_path", "x.ckpt") == 2, said
        assert said in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "runs/sinusoid").iterdir()] == ["version_0"]


@pytest.mark.parametrize("folder", ["a_file", "a_file/deeper", "/proc/none"])
def test_a_folder_that_cannot_be_written_is_refused(folder, capsys, tmp_path):
    (tmp_path / "a_file").write_text("")
    assert run("fit", *TINY, "--trainer.logger.init_args.save_dir", folder) == 2
    assert (
        f"trainer.logger.init_args.save_dir is {folder}/sinusoid/version_0/checkpoints: it cannot be written"
        in capsys.readouterr().err
    )


def test_every_option_is_in_the_help(capsys):
    assert run("fit", "--help", "all") == 0
    text = capsys.readouterr().out
    for option in ("n_way", "k_shot", "n_query", "meta_batch_size", "seed", "root"):
        assert f"--data.{option}" in text
    for option in ("network", "update_rule", "inner_steps", "first_order", "adapts", "engine"):
        assert f"--model.{option}" in text
    for option in ("optimizer", "scheduler", "alternate", "multi_step_until"):
        assert f"--model.outer.{option}" in text
    assert "--ckpt_path" in text
    assert "--trainer.max_steps" in text
    assert "barebones" not in text  # of what is refused


def test_the_help_tells_what_each_command_does(capsys):
    assert run("--help") == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "fit Meta-train a network together with its update rule." in text
    assert "test Evaluate a checkpoint on tasks of unseen classes" in text
    assert list(PURPOSES) == [*MetaSGDCLI.subcommands(), *COMMANDS, "configs"]
    for command, does in COMMANDS.items():
        assert f"{command} {PURPOSES[command]}" in text
        assert PURPOSES[command] == does.__doc__.partition("\n")[0]


def test_a_command_that_does_not_exist_is_answered_with_all_that_do(capsys):
    assert run("fot") == 2
    printed = capsys.readouterr().err
    assert all(f"'{command}'" in printed for command in ("fit", "validate", "test", "predict", *COMMANDS))


def test_a_command_behind_options_is_asked_to_come_first(tmp_path, capsys):
    (tmp_path / "nothing.yaml").write_text("{}")
    assert run("--config", "nothing.yaml", "train") == 2
    assert "give the command first, as metasgd train" in capsys.readouterr().err


def test_the_version_is_the_package_s(capsys):
    assert run("--version") == 0
    assert capsys.readouterr().out.split()[-1] == metasgd.__version__ == version("metasgd")
