"""Commands and configuration files with the names that options had before."""

import pytest
import yaml

from metasgd.cli.renamed import in_current_names


@pytest.mark.parametrize(
    ("command", "given", "now"),
    [
        ("train", ["--seed", "3", "--root=x"], ["--seed_everything", "3", "--data.root=x"]),
        (
            "train",
            ["--ckpt_path", "fit.ckpt", "--resume", "last"],
            ["--optimizer_ckpt", "fit.ckpt", "--ckpt_path", "last"],
        ),
        ("train", ["--ckpt_path", "last", "--lr", "2"], ["--ckpt_path", "last", "--lr", "2"]),
        ("train", ["--seed_everything", "3"], ["--seed_everything", "3"]),
        (
            "compare",
            ["--ckpt_path", "fit.ckpt", "--name", "--seed"],
            ["--optimizer_ckpt", "fit.ckpt", "--name", "--seed_everything"],
        ),
        ("adapt", ["--ckpt_path", "fit.ckpt"], ["--ckpt_path", "fit.ckpt"]),
    ],
)
def test_old_options_become_present_ones(command, given, now):
    arguments, lines = in_current_names(command, given)
    assert arguments == now
    assert bool(lines) == (given != now)
    assert all("is called --" in line for line in lines)


def test_a_configuration_of_then_is_read_as_one_of_now(tmp_path):
    old = {"problem": "Curve", "ckpt_path": "fit.ckpt", "seed": 4, "root": "here", "num_workers": 2, "resume": None}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(old))
    for given in (["--config", str(tmp_path / "config.yaml")], [f"--config={tmp_path / 'config.yaml'}"]):
        arguments, _ = in_current_names("train", [*given, "--steps", "3"])
        read = yaml.safe_load(arguments[-3].removeprefix("--config="))
        assert read == {
            "problem": "Curve",
            "optimizer_ckpt": "fit.ckpt",
            "seed_everything": 4,
            "data": {"root": "here", "num_workers": 2},
        }


def test_a_configuration_of_now_is_left_to_the_parser(tmp_path):
    (tmp_path / "config.yaml").write_text("seed_everything: 1\n")
    given = ["--config", str(tmp_path / "config.yaml"), "--config", str(tmp_path / "none.yaml")]
    assert in_current_names("train", given) == (given, [])
