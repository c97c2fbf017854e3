"""The notebooks of docs/tutorials: their cells run, and what is shown of them is of these cells."""

import json
import shlex
import sys

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot
from support.runs import ROOT

from metasgd.cli.main import main

FOLDER = ROOT / "docs" / "tutorials"
NAMES = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
SHORTER = {"OUTER_STEPS = 2000": "OUTER_STEPS = 40", "STEPS = 400": "STEPS = 20"}


def cells_of(name: str) -> list[dict]:
    cells = json.loads((FOLDER / f"{name}.ipynb").read_text())["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def run(name: str) -> dict:
    """Run the cells in this process, in one namespace, and commands of metasgd as the program does; what they leave."""
    found: dict = {"__name__": name}
    for cell in cells_of(name):
        source = "".join(cell["source"])
        if source.startswith("%%bash"):
            [command] = [line for line in source.splitlines() if line.startswith("metasgd ")]
            assert main(shlex.split(command)[1:]) == 0
            continue
        for long, short in SHORTER.items():
            source = source.replace(long, short)
        exec(compile(source, name, "exec"), found)
    return found


@pytest.fixture(autouse=True)
def somewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["metasgd"])
    monkeypatch.setattr(pyplot, "show", lambda: pyplot.close("all"))
    backend = matplotlib.get_backend()
    matplotlib.use("agg")
    yield
    matplotlib.use(backend)


def test_there_are_three_and_each_is_shown_as_it_ran():
    assert NAMES == ["curves_from_scratch", "learned_optimizer", "your_own_pictures"]
    for name in NAMES:
        cells = cells_of(name)
        assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
        assert any("image/png" in output.get("data", {}) for cell in cells for output in cell["outputs"])
        assert not any(output["output_type"] == "error" for cell in cells for output in cell["outputs"])


def test_meta_sgd_from_scratch_learns():
    found = run("curves_from_scratch")
    assert found["after"].mean() < found["before"].mean()
    assert len(found["errors"]) == 100
    assert np.mean(found["errors"]) < found["after"].mean().item()  # the library's was trained for longer


def test_pictures_of_ones_own_are_labelled_alike_by_the_command_and_in_python():
    found = run("your_own_pictures")
    assert found["right"] == 24
    by_command = {file: label for file, label, *_ in found["rows"][1:]}
    by_python = found["adapted"].predict(found["more_x"])
    assert list(by_command.values()) == list(by_python)  # both in the order of the files' names


def test_the_learned_optimizer_trains_the_network_of_the_tutorial():
    found = run("learned_optimizer")
    losses, _, optimizer = found["found"]["learned, nothing tuned"]
    assert losses[-1] < losses[0]
    assert optimizer.n_steps == found["STEPS"] == len(losses)
