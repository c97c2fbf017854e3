"""Supervised training through the real command line: train, stop, resume; what it refuses."""

import json

import pytest
import torch
from support.runs import TINY, assert_same, scalars, state, succeeded

from metasgd.cli.main import main

PROBLEM = [
    *("--problem", "metasgd.data.Curve", "--problem.init_args.points", "60"),
    *("--network", "metasgd.nn.MLP", "--network.init_args.hidden", "[16]"),
    *("--batch_size", "7", "--val_every", "6", "--accelerator", "cpu", "--progress", "false"),
]
RUN = "runs/train/version_0"


@pytest.fixture
def learned(tmp_path, metasgd):
    """A checkpoint with an optimizer network."""
    rule = ["--model.update_rule", "OptimizerNetwork", "--model.update_rule.init_args.learning_rate", "0.01"]
    succeeded(metasgd("fit", *TINY, *rule))
    return str(tmp_path / "runs/sinusoid/version_0/checkpoints/last.ckpt")


def test_a_stopped_training_resumes_to_the_same_bits(learned, metasgd, tmp_path):
    by_it = ["--optimizer", "learned", "--optimizer_ckpt", learned]
    done = succeeded(metasgd("train", *PROBLEM, *by_it, "--steps", "20"))
    assert "after 20 steps: test/mse" in done.stdout
    straight = state(tmp_path / RUN / "checkpoints" / "last.ckpt")
    evaluated = json.loads((tmp_path / RUN / "results.json").read_text())

    succeeded(metasgd("train", *PROBLEM, *by_it, "--steps", "10"))
    second = tmp_path / "runs/train/version_1"
    half = state(second / "checkpoints" / "last.ckpt")["state_dict"]
    assert not torch.equal(half["network.body.1.weight"], straight["state_dict"]["network.body.1.weight"])
    for changed in (["--optimizer", "torch.optim.Adam"], [*by_it, "--lr", "2"]):
        refused = metasgd("train", *PROBLEM, *changed, "--steps", "20", "--ckpt_path", "last")
        assert refused.returncode == 2
        assert "cannot be trained on as configured: its optimizer" in refused.stderr
    succeeded(metasgd("train", *PROBLEM, *by_it, "--steps", "20", "--ckpt_path", "last"))
    resumed = state(second / "checkpoints" / "last.ckpt")
    assert_same(resumed["state_dict"], straight["state_dict"])
    assert_same(resumed["optimizer_states"], straight["optimizer_states"])
    assert json.loads((second / "results.json").read_text()) == evaluated
    assert [step for step, _ in scalars(second, "val/mse")] == [5, 11, 17]
    assert evaluated["test/mse"] < scalars(second, "val/mse")[0][1]


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_training_resumes_only_as_it_was_begun(learned, metasgd, tmp_path, capsys, monkeypatch):
    by_it = ["--optimizer", "learned", "--optimizer_ckpt", learned]
    succeeded(metasgd("train", *PROBLEM, *by_it, "--steps", "6"))
    run = tmp_path / RUN
    before = contents(run)
    rule = ["--model.update_rule", "OptimizerNetwork", "--model.update_rule.init_args.learning_rate", "0.01"]
    succeeded(metasgd("fit", *TINY, *rule, "--seed_everything", "1"))  # another φ, of the same options
    other = str(tmp_path / "runs/sinusoid/version_1/checkpoints/last.ckpt")
    cases = {
        ("--optimizer_ckpt", other): ("--ckpt_path is last", f"of --optimizer_ckpt {other}"),
        ("--seed_everything", "3"): ("--seed_everything is 3, but 0 in", "--ckpt_path last"),
        ("--batch_size", "8"): ("--batch_size is 8, but 7 in", "--ckpt_path last"),
        ("--problem.init_args.points", "61"): ("--problem.points is 61, but 60 in", "--ckpt_path last"),
        ("--network.init_args.hidden", "[17]"): ("--network.hidden is [17], but [16] in", "--ckpt_path last"),
    }
    monkeypatch.chdir(tmp_path)
    for changed, said in cases.items():
        assert main(["train", *PROBLEM, *by_it, "--steps", "9", "--ckpt_path", "last", *changed]) == 2
        err = capsys.readouterr().err
        assert all(part in err for part in said), err
    assert contents(run) == before
    assert not (tmp_path / "runs/train/version_1").exists()


def test_the_bar_says_what_is_done(metasgd):
    quiet = PROBLEM[: PROBLEM.index("--progress")]
    done = succeeded(metasgd("train", *quiet, "--optimizer", "torch.optim.Adam", "--steps", "6"))
    assert "Training" in done.stdout
    assert "Meta-training" not in done.stdout


def test_a_given_optimizer_trains_as_well(metasgd, tmp_path):
    adam = ["--optimizer", "torch.optim.Adam", "--optimizer.lr", "0.01"]
    succeeded(metasgd("train", *PROBLEM, *adam, "--steps", "60"))
    found = json.loads((tmp_path / RUN / "results.json").read_text())
    assert found["optimizer"] == "Adam, lr 0.01"
    assert found["test/mse"] < scalars(tmp_path / RUN, "val/mse")[0][1]


CASES = {
    "no checkpoint": (["--optimizer", "learned"], "no --optimizer_ckpt says which"),
    "a factor for Adam": (["--optimizer", "torch.optim.Adam", "--lr", "2"], "are the learned optimizer's"),
    "no steps": (["--optimizer", "torch.optim.Adam", "--steps", "0"], "steps is 0: at least 1"),
    "batch": (["--optimizer", "torch.optim.Adam", "--batch_size", "61"], "batch_size is 61: from 1 to 60"),
    "outputs": (
        ["--optimizer", "torch.optim.Adam", "--network.init_args.out_features", "2"],
        "but the problem asks for 1",
    ),
    "inputs": (
        ["--optimizer", "torch.optim.Adam", "--network.init_args.in_features", "2"],
        "MLP does not take the inputs of shape (1,)",
    ),
    "misspelt": (["--optimizer", "torch.optim.Adam", "--stpes", "2"], "stpes"),
    "nothing to resume": (["--optimizer", "torch.optim.Adam", "--ckpt_path", "last"], "--ckpt_path is last"),
    "no such checkpoint": (["--optimizer_ckpt", "none.ckpt"], "--optimizer_ckpt is none.ckpt, which is not there"),
    "a folder": (["--optimizer_ckpt", "."], "--optimizer_ckpt is ., which is a folder"),
    "settings": (
        ["--optimizer", "torch.optim.Adam", "--optimizer.lr", "-0.003"],
        "--optimizer cannot be made as it is set (Invalid learning rate: -0.003)",
    ),
    "many evaluations": (["--optimizer", "torch.optim.LBFGS"], "--optimizer is LBFGS, which evaluates the loss"),
    "seed": (
        ["--optimizer", "torch.optim.Adam", "--seed_everything", "99999999999"],
        "seed_everything is 99999999999: a whole number",
    ),
    "seed below": (
        ["--optimizer", "torch.optim.Adam", "--seed_everything", "-1"],
        "seed_everything is -1: a whole number from 0",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_mistake_ends_in_one_message_before_a_run_has_a_folder(case, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments, said = CASES[case]
    try:
        code = main(["train", *PROBLEM, *arguments])
    except SystemExit as leaving:
        code = leaving.code
    assert code == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_rates_of_another_architecture_name_the_first_tensor(metasgd, tmp_path):
    succeeded(metasgd("fit", *TINY))  # Meta-SGD, on 1-40-40-1
    path = str(tmp_path / "runs/sinusoid/version_0/checkpoints/last.ckpt")
    refused = metasgd("train", *PROBLEM, "--optimizer", "learned", "--optimizer_ckpt", path)
    assert refused.returncode == 2
    assert "network.body.1.weight" not in refused.stderr
    assert "those of body.1.weight have the shape (40, 1), the parameter (16, 1)" in refused.stderr
    fitting = [*PROBLEM, "--network.init_args.hidden", "[40, 40]", "--steps", "3"]
    succeeded(metasgd("train", *fitting, "--optimizer", "learned", "--optimizer_ckpt", path))
    assert torch.load(tmp_path / RUN / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 3
