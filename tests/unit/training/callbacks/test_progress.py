import io

import pytest
from rich.console import Console
from rich.progress import Progress

from metasgd.training.callbacks.progress import ProgressBar


@pytest.mark.parametrize("width", [80, 120, 200])
def test_a_long_training_is_one_line(width):
    bar, console = ProgressBar(), Console(width=width, file=io.StringIO(), force_terminal=False)
    bar.metric = "accuracy 0.743"
    progress = Progress(*bar.configure_columns(None), console=console)
    progress.add_task("Epoch 0/0", total=100_000, completed=12_345)
    console.print(progress.get_renderable())
    [line] = console.file.getvalue().splitlines()
    assert "12345/100000" in line
    assert line.startswith("Meta-training ")
    assert "accuracy 0.743" in line
    assert len(line) <= width
