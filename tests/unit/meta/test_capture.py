"""What a recording on a CUDA device asks of torch, seen without one."""

import warnings

import pytest
import torch

from metasgd.meta.capture import _no_waiting


@pytest.fixture
def modes(monkeypatch):
    """The modes that were set; each time torch warns that they are a prototype, as it does."""
    seen = [0]

    def set_mode(mode):
        seen.append(mode)
        warnings.warn("Synchronization debug mode is a prototype feature", UserWarning, stacklevel=2)

    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: seen[-1])
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", set_mode)
    return seen


@pytest.mark.parametrize("error", [None, RuntimeError])
def test_waiting_is_an_error_within_and_allowed_again_after(modes, error):
    def wait():
        with _no_waiting():
            assert modes == [0, "error"]
            if error:
                raise error("called a synchronizing CUDA operation")

    with warnings.catch_warnings():
        warnings.filterwarnings("error")
        if error:
            with pytest.raises(error):
                wait()
        else:
            wait()
    assert modes == [0, "error", 0]
