import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource
from metasgd.runtime.allocator import keep_freed_memory
assert keep_freed_memory()
import torch
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        blocks = [torch.ones(2**22) for _ in range(8)]  # 16 MiB each, freed together
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator can be told")
def test_memory_that_is_kept_costs_no_page_faults():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    pages = 20 * 8 * 2**22 * 4 // 4096
    # left to itself, glibc takes every one of them anew, but not in every run
    assert int(done.stdout) < pages / 100


def test_other_systems_are_left_alone(monkeypatch):
    from metasgd.runtime import allocator

    monkeypatch.setattr(allocator.sys, "platform", "darwin")
    assert not allocator.keep_freed_memory()
