"""The wheel: what is in it, and that it works where there is no clone."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from support.runs import ROOT

pytestmark = pytest.mark.slow
STEPS = ["--trainer.max_steps", "2", "--trainer.val_check_interval", "2", "--trainer.accelerator", "cpu"]
SMALL = ["--data.val_tasks", "4", "--data.meta_batch_size", "2", "--trainer.enable_progress_bar", "false"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pytest.importorskip("hatchling")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", str(folder), str(ROOT)], check=True)
    return next(folder.glob("metasgd-*.whl"))


def test_it_has_every_configuration_and_checkpoint(wheel):
    inside = set(zipfile.ZipFile(wheel).namelist())
    clone = [*ROOT.glob("configs/*.yaml"), *ROOT.glob("checkpoints/*/*"), *(ROOT / "src" / "metasgd").rglob("*.py")]
    wanted = {str(path.relative_to(ROOT)).removeprefix("src/metasgd/") for path in clone}
    assert {name.removeprefix("metasgd/") for name in inside if ".dist-info/" not in name} >= wanted
    assert not [name for name in inside if name.startswith(("tests/", "docs/", "experiments/"))]


def test_it_works_without_the_clone(wheel, tmp_path):
    target, here = tmp_path / "installed", tmp_path / "here"
    here.mkdir()
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), str(wheel)],
        check=True,
    )
    script = [sys.executable, "-m", "metasgd"]
    environment = {**os.environ, "PYTHONPATH": str(target), "XDG_CACHE_HOME": str(tmp_path / "cache")}

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert Path(run(sys.executable, "-c", "import metasgd; print(metasgd.__file__)").strip()).is_relative_to(target)
    run(*script, "fit", "glyphs", *STEPS, *SMALL)
    assert (here / "runs" / "glyphs" / "version_0" / "checkpoints" / "last.ckpt").is_file()
    run(*script, "test", "glyphs", "--ckpt_path", "best", "--data.test_tasks", "4", *SMALL[2:])
    assert (here / "runs" / "glyphs" / "version_0" / "results.json").is_file()
    found = run(sys.executable, "-c", "import metasgd; print(type(metasgd.load('omniglot')).__name__)")
    assert found.strip() == "MetaLearner"
