"""What the tests share: a small run, and the command line."""

import os
from functools import partial
from pathlib import Path

from support.bytecode import shared_bytecode

# for the tests and all that they start: on a machine that does other work as well, threads of torch that spin while
# they wait for one another take several times as long. Set before torch is imported, which reads it once.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.update(shared_bytecode())

import pytest
import torch
from support.commands import Command, run, succeeded
from support.figures import render_nothing, rendered
from support.runs import ROOT
from support.strokes import write_tree

from metasgd.data.glyphs.letters import Letter, letters

render_nothing()


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test has the same random weights each time, so that none fails for a rare network and passes again."""
    torch.manual_seed(0)


@pytest.fixture
def metasgd(tmp_path: Path) -> Command:
    """Runs ``python -m metasgd ARGUMENTS`` in a folder of the test's own, in this process."""
    return partial(run, cwd=tmp_path)


@pytest.fixture(scope="session")
def found() -> list[Letter]:
    """All the letters of the glyphs; finding them takes seconds."""
    return letters()


@pytest.fixture(scope="session")
def drawings_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a learner meta-trained for seconds on a folder of drawings, dark on light."""
    folder = tmp_path_factory.mktemp("drawings")
    write_tree(folder / "data", {"train": range(30), "val": range(100, 105), "test": range(200, 205)}, drawings=4)
    source = {"image_size": 20, "channels": 1, "ink": "dark"}
    network = {"in_channels": 1, "image_size": 20, "width": 12}
    options = {
        "trainer.max_steps": 60,
        "trainer.val_check_interval": 30,
        "trainer.accelerator": "cpu",
        "trainer.enable_progress_bar": "false",
        "data.root": "data",
        "data.cache_dir": "cache",
        "data.meta_batch_size": 6,
        "data.n_query": 3,
        "data.val_tasks": 10,
        "data.test_tasks": 20,
        "data.source": "ImageFolder",
        **{f"data.source.init_args.{o}": v for o, v in source.items()},
        "model.network": "Conv4",
        **{f"model.network.init_args.{o}": v for o, v in network.items()},
        "model.outer.optimizer.init_args.lr": 0.01,
    }
    config = ["--config", str(ROOT / "configs" / "image_folder.yaml")]
    arguments = [a for o, v in options.items() for a in (f"--{o}", str(v))]
    with rendered():
        succeeded("fit", *config, *arguments, cwd=folder)
    return folder / "runs" / "image_folder" / "version_0"
