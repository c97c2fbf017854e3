"""Configurations by their names."""

import pytest
import yaml
from support.commands import run
from support.runs import ROOT

from metasgd.cli.configs import with_config_paths
from metasgd.cli.overview import program
from metasgd.errors import UserError

GLYPHS = str(ROOT / "configs" / "glyphs.yaml")


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (["fit", "glyphs", "--data.k_shot", "2"], ["fit", f"--config={GLYPHS}", "--data.k_shot", "2"]),
        (["test", "--config", "glyphs"], ["test", f"--config={GLYPHS}"]),
        (["fit", "--seed", "1", "--config", "glyphs", "--x=2"], ["fit", f"--config={GLYPHS}", "--seed", "1", "--x=2"]),
        (
            ["fit", "--x=1", "--config=a.yaml", "--config", "glyphs"],
            ["fit", "--config=a.yaml", f"--config={GLYPHS}", "--x=1"],
        ),
        (["fit", "--x=1", "--config"], ["fit", "--x=1", "--config"]),
        (["fit", "--config=glyphs", "--config=mine.yaml"], ["fit", f"--config={GLYPHS}", "--config=mine.yaml"]),
        (["fit", "some/where.yaml", "glyphs"], ["fit", "--config=some/where.yaml", f"--config={GLYPHS}"]),
        (["report", "glyphs"], ["report", "glyphs"]),
        (["--config", "glyphs"], ["--config", "glyphs"]),
        ([], []),
    ],
)
def test_a_name_stands_for_its_path(given, meant):
    assert with_config_paths(given) == meant


def test_an_unknown_name_is_answered_with_the_known_ones(tmp_path):
    with pytest.raises(UserError, match="--config is glyph, which is neither a file .*glyphs, image_folder"):
        with_config_paths(["fit", "glyph"])
    done = run("configs", "glyph", cwd=tmp_path)
    assert done.returncode == 2
    assert "name is glyph, which is neither a file" in done.stderr


def test_they_are_listed_and_printed(tmp_path):
    lines = run("configs", cwd=tmp_path).stdout.splitlines()
    assert len(lines) == len(list((ROOT / "configs").glob("*.yaml")))
    assert any(line.split(maxsplit=1) == ["glyphs", _first_comment("glyphs")] for line in lines)
    assert max(map(len, lines)) <= 160
    printed = run("configs", "glyphs", cwd=tmp_path).stdout
    assert yaml.safe_load(printed) == yaml.safe_load((ROOT / "configs" / "glyphs.yaml").read_text())


def _first_comment(name: str) -> str:
    return (ROOT / "configs" / f"{name}.yaml").read_text().splitlines()[0].removeprefix("# ")


@pytest.mark.parametrize(
    ("called", "name"),
    [("/venv/bin/metasgd", "metasgd"), ("/src/metasgd/__main__.py", "python -m metasgd")],
)
def test_the_program_names_itself_as_it_was_called(called, name, monkeypatch):
    monkeypatch.setattr("sys.argv", [called])
    assert program() == name
