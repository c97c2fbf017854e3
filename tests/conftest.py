"""What the tests share: a small run, and the real command line."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from metasgd.data.letters import Letter, letters

ROOT = Path(__file__).parents[1]
TINY = [
    "--config",
    str(ROOT / "configs" / "sinusoid.yaml"),
    *("--trainer.max_steps", "8", "--trainer.val_check_interval", "4", "--trainer.log_every_n_steps", "1"),
    *("--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"),
    *("--data.val_tasks", "20", "--data.test_tasks", "40"),
]
"""Arguments of a run that takes no time: sinusoid, 8 outer steps, validations after 4 and 8."""

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def metasgd(tmp_path: Path) -> Command:
    """Runs ``python -m metasgd ARGUMENTS`` in a folder of the test's own."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
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
