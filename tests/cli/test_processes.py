"""What holds for a process as a whole, each in one of its own: what it loads, its memory, its end."""

import gc
import platform
import subprocess
import sys

import pytest
from support.agents import free_port
from support.processes import exit_code
from support.runs import ROOT, TINY

from metasgd.runtime.process import collect_rarely

CHECKPOINT = str(ROOT / "checkpoints" / "sinusoid" / "model.ckpt")
LIGHT = ("lightning", "torchvision", "matplotlib", "jsonargparse", "tensorboard", "torchmetrics", "rich", "upath")
LOADED = f"""
import sys
def loaded(): print(*(m for m in {LIGHT} if m in sys.modules))
from metasgd import LearnedOptimizer
loaded()
from metasgd.runs.rules import load_rule
load_rule({CHECKPOINT!r})
loaded()
import metasgd
metasgd.load({CHECKPOINT!r})
loaded()
"""


def test_the_learned_optimizer_a_rule_and_a_learner_load_torch_and_little_else():
    run = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True)
    for_optimizer, for_rule, for_learner = (set(line.split()) for line in run.stdout.split("\n")[:3])
    assert for_optimizer == set()
    assert for_rule <= {"upath"}
    assert for_learner <= {"jsonargparse", "rich", "upath"}


HELP = """
import sys
from metasgd.__main__ import program
try:
    program()
finally:
    print(*sys.modules)
"""


@pytest.mark.parametrize(("option", "said"), [("--help", "commands:"), ("--version", "metasgd ")])
def test_the_help_and_the_version_wait_for_no_import(option, said):
    run = subprocess.run([sys.executable, "-c", HELP, option], capture_output=True, text=True, check=True)
    printed, loaded = run.stdout.rstrip("\n").rsplit("\n", 1)
    assert said in printed
    assert not {"torch", *LIGHT} & set(loaded.split())


def test_the_collector_looks_rarely_but_looks():
    objects = [[] for _ in range(10_000)]

    def work():
        before = gc.get_freeze_count()
        collect_rarely()
        assert gc.get_freeze_count() - before > len(objects)
        assert gc.isenabled()
        assert gc.get_threshold()[0] > 700

    assert exit_code(work) == 0


END = """
import atexit, gc
from metasgd.runtime.process import collect_rarely
atexit.register(lambda: print(gc.get_freeze_count()))
collect_rarely()
"""


def test_what_the_collector_left_alone_is_collected_as_python_ends():
    run = subprocess.run([sys.executable, "-c", END], capture_output=True, text=True, check=True)
    assert run.stdout == "0\n"


FIGURES = """
import gc, sys
from lightning.pytorch.callbacks import Callback
from matplotlib.figure import Figure
from metasgd.cli.main import main
from metasgd.training.callbacks.curves import ShowCurves

class Count(Callback):
    drawn = 0

    def on_train_batch_end(self, trainer, *rest):
        if trainer.global_step == 8:
            print("figures:", self.drawn, sum(isinstance(o, Figure) for o in gc.get_objects()))

def noted(self, *arguments):
    Count.drawn += 1
    return validated(self, *arguments)

validated, ShowCurves.on_validation_end = ShowCurves.on_validation_end, noted
sys.exit(main([*sys.argv[1:], "--trainer.callbacks+", "__main__.Count"]))
"""


def test_the_figures_of_validations_are_not_left_to_the_collector_that_looks_rarely(tmp_path):
    command = [sys.executable, "-c", FIGURES, "fit", *TINY]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    drawn, alive = next(line for line in done.stdout.splitlines() if line.startswith("figures:")).split()[1:]
    assert int(drawn) >= 1
    assert alive == "0"


FAULTS = """
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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator has this setting")
def test_memory_that_is_not_returned_costs_no_page_faults():
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    pages = 20 * 8 * 2**22 * 4 // 4096
    # left to itself, glibc takes every one of them anew, but not in every run
    assert int(done.stdout) < pages / 100


ENDING = """
import atexit, sys, torch
from metasgd.runtime.launch import end

class Objects:
    def __del__(self):
        print("taken down")

objects = Objects()
atexit.register(print, "closed")
if sys.argv[1:]:
    torch.distributed.init_process_group("gloo", sys.argv[1], rank=0, world_size=1)
    torch.distributed.all_reduce(torch.ones(1))
end(3)
"""


@pytest.mark.parametrize("several", [False, True])
def test_one_of_several_processes_ends_before_python_is_taken_down(several):
    """Where a thread of gloo's, still holding a tensor, would abort it: bare torch, two times in five."""
    place = [f"tcp://127.0.0.1:{free_port()}"] if several else []
    done = subprocess.run([sys.executable, "-c", ENDING, *place], capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert done.stdout.split("\n") == (["closed", ""] if several else ["closed", "taken down", ""])
