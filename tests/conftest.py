"""What the tests share: a small run, and the real command line."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

# for the tests and all that they start: on a machine that does other work as well, threads of torch that spin while
# they wait for one another take several times as long. Set before torch is imported, which reads it once.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
from support.runs import ROOT
from support.strokes import write_tree

from metasgd.data.glyphs.letters import Letter, letters

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def metasgd(tmp_path: Path) -> Command:
    """Runs ``python -m metasgd ARGUMENTS`` in a folder of the test's own."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "COLUMNS": "200"}
        return subprocess.run(
            [sys.executable, "-m", "metasgd", *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run


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
    command = [sys.executable, "-m", "metasgd", "fit", *config, *arguments]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder / "runs" / "image_folder" / "version_0"
