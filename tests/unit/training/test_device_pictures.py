"""Runs whose tasks are made on the device that trains, here the CPU, are those whose tasks are drawn whole."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Trainer
from support.noise import Noise
from torch import Tensor, nn

from metasgd.data.class_sampler import ClassSampler
from metasgd.data.rng import Split
from metasgd.data.source import Sampler
from metasgd.data.task_shape import TaskShape
from metasgd.data.transforms.augmentation import Augmented
from metasgd.data.transforms.distortion import Distorted
from metasgd.data.transforms.rotation import Rotated
from metasgd.data.transforms.views import views_of
from metasgd.nn.networks import Conv4
from metasgd.rules.gradient_descent import PerParameter
from metasgd.training import device_pictures
from metasgd.training.datamodule import EpisodicDataModule
from metasgd.training.module import MetaSGDModule


class Changed(Noise):
    """Noise, distorted in training and rotated in evaluation."""

    def __init__(self, augmented: bool = False) -> None:
        super().__init__(channels=1, side=6, classes=8)
        self.augmented = augmented

    def sampler(self, split: Split, root: Path, cache_dir: Path, seed: int, shape: TaskShape) -> Sampler:
        plain = ClassSampler(self.pool(split, root, cache_dir), split, seed, shape)
        if self.augmented:
            return Augmented(plain, [nn.Identity()], split, seed)
        return Distorted(plain, 1.0, split, seed) if split == "train" else Rotated(plain, split, seed)


def run(on_device: bool, augmented: bool = False, **options: Any) -> dict[str, Tensor]:
    """What was learned in a few outer steps, and how it was evaluated."""
    torch.manual_seed(0)
    module = MetaSGDModule(Conv4(width=2, image_size=6), PerParameter(0.1))
    shape = {"n_way": 3, "k_shot": 1, "n_query": 2, "meta_batch_size": 2, "val_tasks": 4}
    data = EpisodicDataModule(Changed(augmented), on_device=on_device, **shape)
    off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary", "inference_mode")
    trainer = Trainer(
        max_steps=4,
        max_epochs=1,
        accelerator="cpu",
        check_val_every_n_epoch=None,
        val_check_interval=4,
        log_every_n_steps=1,
        use_distributed_sampler=False,
        **dict.fromkeys(off, False),
        **options,
    )
    trainer.fit(module, data)
    return {**module.state_dict(), "val/loss": trainer.logged_metrics["val/loss"]}


@pytest.fixture(scope="module")
def drawn_whole() -> dict[str, Tensor]:
    return run(on_device=False)


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[n], t) for n, t in expected.items())


def test_a_run_is_the_same_to_the_bit(drawn_whole: dict[str, Tensor]) -> None:
    assert_equal(run(on_device=True), drawn_whole)


def test_so_it_is_where_the_pictures_do_not_fit(
    drawn_whole: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(device_pictures, "_fits", lambda pool, device: False)
    with caplog.at_level("INFO"):
        assert_equal(run(on_device=True), drawn_whole)
    assert "on_device: pictures of 0.0 GiB are looked up on the CPU" in caplog.text


def test_no_precision_of_the_trainer_touches_a_plan() -> None:
    assert_equal(run(on_device=True, precision="64-true"), run(on_device=False, precision="64-true"))


def test_what_is_drawn_on_the_cpu_alone_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        run(on_device=True, augmented=True)
    assert caplog.text.count("on_device: tasks are drawn by Augmented, which works on the CPU alone") == 1


def test_an_evaluation_averages_over_views_of_the_support_sets():
    torch.manual_seed(0)
    module = MetaSGDModule(Conv4(width=2, image_size=6), PerParameter(0.1), eval_inner_steps=2)
    shape = {"n_way": 3, "k_shot": 1, "n_query": 2, "meta_batch_size": 2, "test_tasks": 4}
    data = EpisodicDataModule(Changed(), eval_views=3, **shape)
    off = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = Trainer(accelerator="cpu", inference_mode=False, **off)
    trainer.test(module, data, verbose=False)
    tasks = data.samplers["test"].draw(np.arange(4))
    views = views_of(tasks, 3, None, "test", 0)
    mean = sum(module.evaluate(view, [2]).outputs[:, 0].softmax(dim=-1) for view in views) / 3
    loss = -mean.gather(2, tasks.query_y[..., None]).log().mean()
    assert float(trainer.logged_metrics["test/loss"]) == pytest.approx(float(loss), rel=1e-5)
    assert float(trainer.logged_metrics["test/accuracy"]) == float((mean.argmax(-1) == tasks.query_y).float().mean())
