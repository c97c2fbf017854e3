"""Checkpoints that are evaluated together: which may be, and what the test then says."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from support.commands import succeeded
from support.runs import ROOT

from metasgd.data.omniglot.source import Omniglot
from metasgd.data.sinusoid import Sinusoid
from metasgd.data.source import Source
from metasgd.errors import UserError
from metasgd.learner.load import load
from metasgd.runs.checkpoint_file import read_checkpoint
from metasgd.runs.checkpoint_schema import CONFIG_KEY
from metasgd.runs.folders import Start, checkpoint_file
from metasgd.training.datamodule import EpisodicDataModule
from metasgd.training.ensemble import joined


def start_of(name) -> Start:
    path = checkpoint_file(str(name), "--ckpt_path")
    return Start(None, path, read_checkpoint(path))


def changed(path: Path, content: dict, part: str, **options) -> Start:
    """A checkpoint like another, but for some options."""
    config = yaml.safe_load(content[CONFIG_KEY])
    config[part] |= options
    torch.save({**content, CONFIG_KEY: yaml.safe_dump(config)}, path)
    return start_of(path)


def join(first: Start, *others: Start, source: Source, **model):
    learner = load(first.checkpoint)
    configured = {**learner.config, "model": learner.config["model"] | model}
    return joined(learner.model, first, others, configured, source)


def test_a_test_of_two_checkpoints_is_of_their_mean_prediction(tmp_path):
    first = start_of("sinusoid")
    weights = {n: t * 1.05 if t.is_floating_point() else t for n, t in first.content["state_dict"].items()}
    content = first.content | {"state_dict": weights}
    second = changed(tmp_path / "other.ckpt", content, "model", eval_inner_steps=3).checkpoint
    both = f"sinusoid,{second}"
    of_tasks = {"data.test_tasks": 20, "trainer.accelerator": "cpu", "trainer.enable_progress_bar": "false"}
    options = [a for o, v in of_tasks.items() for a in (f"--{o}", str(v))]
    config = str(ROOT / "checkpoints/sinusoid/config.yaml")
    done = succeeded("test", "--config", config, "--ckpt_path", both, *options, cwd=tmp_path)
    assert f"ensemble: {second} of outer step {first.outer_step}" in done.stdout
    written = done.stdout.split("written to ")[1].split("/results.json")[0]
    results = json.loads((tmp_path / written / "results.json").read_text())

    shape = {name: results["protocol"][name] for name in ("n_way", "k_shot", "n_query")}
    data = EpisodicDataModule(Sinusoid(), **shape)
    data.setup("test")
    tasks = data.samplers["test"].draw(np.arange(20))
    one, other = load("sinusoid"), load(second)
    own = one.model.eval_inner_steps
    mean = (one.model.evaluate(tasks, [own]).outputs + other.model.evaluate(tasks, [3]).outputs) / 2
    error = (mean[:, 0] - tasks.query_y).square().mean()
    assert results["test/mse"] == pytest.approx(float(error), rel=1e-5)
    assert [m["inner_steps"] for m in results["protocol"]["ensemble"]] == [own, 3]
    assert results["protocol"]["checkpoint"] == f"{checkpoint_file('sinusoid', '')},{second}"
    assert results["protocol"]["in_words"].endswith("ensemble of 2 (mean of their predictions)")


def test_what_is_asked_of_the_first_is_asked_of_all_and_the_rest_is_their_own(tmp_path):
    first = start_of("omniglot")
    options = {"eval_inner_steps": 2, "transductive": False}
    second = changed(tmp_path / "other.ckpt", first.content, "model", **options)
    own, other = join(first, second, source=Omniglot())
    assert (own.model.eval_inner_steps, other.model.eval_inner_steps) == (1, 2)
    assert other.model.config.transductive
    _, other = join(first, second, source=Omniglot(), eval_inner_steps=4, transductive=False)
    assert other.model.eval_inner_steps == 4
    assert not other.model.config.transductive


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ("sinusoid", "omniglot", "omniglot/model.ckpt was trained for accuracy, and not mse"),
        ("omniglot", "omniglot_official", "trained on other classes.*split is official, the configured one random"),
    ],
)
def test_checkpoints_that_serve_other_tasks(first, second, said):
    source = Sinusoid() if first == "sinusoid" else Omniglot()
    with pytest.raises(UserError, match=said):
        join(start_of(first), start_of(second), source=source)


def test_drawings_in_the_other_ink(tmp_path):
    first = start_of("omniglot")
    dark = {"class_path": "metasgd.data.ImageFolder", "init_args": {"image_size": 28, "channels": 1, "ink": "dark"}}
    second = changed(tmp_path / "dark.ckpt", first.content, "data", source=dark)
    with pytest.raises(UserError, match=r"dark\.ckpt was trained on dark ink, but data.source has light ink"):
        join(first, second, source=Omniglot())
