"""The documentation site: every link in it leads somewhere, and every name in the reference is there."""

import importlib.util
import subprocess
import sys

import pytest
from support.runs import ROOT

pytestmark = pytest.mark.slow


@pytest.mark.skipif(importlib.util.find_spec("material") is None, reason="needs the extra docs")
def test_the_site_builds_without_a_warning(tmp_path):
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    reference = (tmp_path / "site" / "reference" / "index.html").read_text()
    assert "metasgd.learner.load.load" in reference
