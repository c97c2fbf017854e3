"""A job of SLURM, as far as a process sees of it."""

import os
from pathlib import Path

import pytest

SLURM = {
    "SLURM_JOB_ID": "4711",
    "SLURM_NTASKS": "1",
    "SLURM_JOB_NAME": "metasgd",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_STEP_ID": "0",
    "SLURM_NODELIST": "localhost",
}


def in_a_job(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set the variables of a job, and put a scontrol on the PATH.

    Returns:
        The file in which that notes what it is called with; it ends with the code in the file ``code`` beside it.
    """
    programs = folder / "bin"
    programs.mkdir()
    program = programs / "scontrol"
    program.write_text(f'#!/bin/sh\necho "$@" >> {folder}/calls\nexit $(cat {folder}/code 2>/dev/null || echo 0)\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    return folder / "calls"
