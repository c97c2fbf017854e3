"""Runs on cached features are the runs on pictures; each picture goes through the frozen layers once."""

from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from support.noise import Noise
from torch import Tensor, nn

from metasgd.data.class_sampler import ClassSampler
from metasgd.data.rng import Split
from metasgd.data.source import Sampler
from metasgd.data.task_shape import TaskShape
from metasgd.data.transforms.distortion import Distorted
from metasgd.episode import Episode
from metasgd.nn import Backbone
from metasgd.nn.prefix import Prefix
from metasgd.rules import PerParameter
from metasgd.training.cached_features import Features
from metasgd.training.datamodule import EpisodicDataModule
from metasgd.training.module import MetaSGDModule
from metasgd.training.outer import OuterProblem


class Distortable(Noise):
    """Noise, in training distorted if so wished."""

    def __init__(self, distorted: bool) -> None:
        super().__init__(channels=3, side=6, classes=4)
        self.distorted = distorted

    def sampler(self, split: Split, root: Path, cache_dir: Path, seed: int, shape: TaskShape) -> Sampler:
        plain = ClassSampler(self.pool(split, root, cache_dir), split, seed, shape)
        return Distorted(plain, 1.0, split, seed) if self.distorted and split == "train" else plain


class Counted(nn.Sequential):
    """Counts the examples that it was given."""

    passed = 0

    def forward(self, x: Tensor) -> Tensor:
        self.passed += len(x)
        return super().forward(x)


class Net(nn.Module):
    """Two blocks and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.block1 = Counted(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(inplace=True))
        self.block2 = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Dropout(0.2))
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.block2(self.block1(x)).mean(dim=(2, 3)))


def run(cache: Path | None, distorted: bool = False, steps: int = 4) -> dict[str, Any]:
    """What was learned in a few outer steps in float64, how it was evaluated, and how much went through block 1."""
    torch.manual_seed(0)
    outer = OuterProblem(freeze_network=["body.block1.*"])
    module = MetaSGDModule(Backbone(Net(), image_size=6), PerParameter(0.1), adapts="last:2", outer=outer)
    shape = {"n_way": 3, "k_shot": 1, "n_query": 2, "meta_batch_size": 2, "val_tasks": 4}
    data = EpisodicDataModule(Distortable(distorted), cache_dir=str(cache), cache_features=cache is not None, **shape)
    off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary", "inference_mode")
    trainer = Trainer(
        max_steps=steps,
        max_epochs=1,
        accelerator="cpu",
        check_val_every_n_epoch=None,
        val_check_interval=steps,
        log_every_n_steps=1,
        use_distributed_sampler=False,
        precision="64-true",
        **dict.fromkeys(off, False),
    )
    trainer.fit(module, data)
    return {
        **module.state_dict(),
        "val/loss": trainer.logged_metrics["val/loss"],
        "passed": module.network.body.block1.passed,
    }


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*"))


def test_runs_are_the_same_and_later_ones_are_cheap_to_the_bit(tmp_path, caplog):
    plain, half = run(None), run(None, steps=2)
    assert plain["passed"] - half["passed"] == 2 * 2 * 9  # the examples of two steps of two tasks, each once
    with caplog.at_level("INFO"):
        first = run(tmp_path)
    assert caplog.text.count("cached: what the network makes of each example as far as body.block1, 0.5 kB, in") == 1
    again = run(tmp_path)
    assert len(files(tmp_path)) == 1
    for name in plain.keys() - {"passed"}:
        torch.testing.assert_close(first[name], plain[name], rtol=1e-9, atol=1e-11)
        assert torch.equal(again[name], first[name])
    trials = again["passed"]  # of the network, before it is trained
    assert first["passed"] - trials <= 2 * 16  # the pictures of train and val, each once


def test_other_weights_have_another_file_and_other_examples_are_not_found(tmp_path):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    x = torch.randint(0, 256, (2, 6, 4), dtype=torch.uint8)
    tasks = Episode(x[:, :4], x, x[:, 4:], x, x, torch.arange(2))
    features = Features(Prefix(network, {"2.weight", "2.bias"}, x[0].double()), tmp_path, x[0, :1].double())

    def assert_right(tasks: Episode) -> None:
        found = features.of(tasks)
        for h, pictures in ((found.support_x, tasks.support_x), (found.query_x, tasks.query_x)):
            torch.testing.assert_close(h, network[:2](pictures.double() / 255), rtol=1e-12, atol=1e-12)

    assert_right(tasks)
    bias = network[0].bias.detach().clone()
    with torch.no_grad():
        network[0].bias[0] += 1e-9
    assert_right(tasks)
    assert len(files(tmp_path)) == 2
    with torch.no_grad():
        network[0].bias.copy_(bias)
    changed = tasks._replace(query_x=tasks.query_x.clone())
    changed.query_x[0, 0, 0] ^= 1
    assert_right(changed)
    assert len(files(tmp_path)) == 2


def test_where_it_would_not_be_the_same_a_line_says_so(tmp_path, caplog):
    with caplog.at_level("INFO"):
        run(tmp_path, distorted=True, steps=1)
    assert caplog.text.count("nothing can be cached: tasks are drawn by Distorted, whose examples are others") == 1
    assert files(tmp_path) == []
