"""The notebooks of docs/tutorials as a reader runs them: whole, in a kernel of their own."""

import os

import pytest
from support.runs import ROOT

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "tutorials").glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_runs_in_a_kernel(path, tmp_path, monkeypatch):
    nbformat, client = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    program = tmp_path / "bin" / "metasgd"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\nexec python -m metasgd "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    notebook = nbformat.read(path, as_version=4)
    client.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
