import errno

import fsspec
import pytest
import torch

from metasgd.runtime.exit_codes import ending_of


def test_errors_from_outside_have_an_ending_and_all_others_none():
    assert ending_of(OSError(errno.ENOSPC, "No space left on device"))[0] == 2
    assert "No space left on device" in ending_of(OSError(errno.ENOSPC, "No space left on device"))[1]
    code, said = ending_of(torch.distributed.DistNetworkError("The client socket has timed out"))
    assert code == 1
    assert "The client socket has timed out" in said
    for own in (OSError(errno.EACCES, "Permission denied"), RuntimeError("shapes"), ValueError("no"), None):
        assert ending_of(own) is None


def test_only_what_fsspec_raised_is_a_lost_place():
    with pytest.raises(FileNotFoundError) as of_fsspec:
        fsspec.filesystem("memory").open("/nowhere/none", "rb")
    assert "FileNotFoundError: /nowhere/none" in ending_of(of_fsspec.value)[1]
    with pytest.raises(FileNotFoundError) as of_python:
        open("/nowhere/none")  # noqa: SIM115
    assert ending_of(of_python.value) is None
