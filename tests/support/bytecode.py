"""Compiled modules for a session, where Python keeps none: each process would compile all of torch, for ten seconds."""

import atexit
import importlib.util
import shutil
import sys
import tempfile
from pathlib import Path


def shared_bytecode() -> dict[str, str]:
    """Let this process and all that it starts share what they compile, in a folder that ends with this one.

    Only under ``PYTHONDONTWRITEBYTECODE``, and where the installation brings no compiled modules of its own.

    Returns:
        Environment variables for what is started.
    """
    found = importlib.util.find_spec("torch")
    assert found is not None
    assert found.origin is not None
    if not sys.dont_write_bytecode or Path(importlib.util.cache_from_source(found.origin)).exists():
        return {}
    folder = tempfile.mkdtemp(prefix="metasgd-bytecode-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    sys.dont_write_bytecode, sys.pycache_prefix = False, folder
    return {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": folder}
