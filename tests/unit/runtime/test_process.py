import os
import subprocess
import sys

import pytest
import torch
from lightning import Trainer
from support.runs import TINY

from metasgd.runtime.process import NoProfiler, forget_absent_gpus

RARELY = """
import gc
from metasgd.runtime.process import collect_rarely
kept = [[] for _ in range(10_000)]
before = gc.get_freeze_count()
collect_rarely()
print(gc.get_freeze_count() - before > 10_000, gc.isenabled(), gc.get_threshold()[0] > 700)
"""


def test_the_collector_looks_rarely_but_looks():
    done = subprocess.run([sys.executable, "-c", RARELY], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True", "True"]


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
            print(self.drawn, sum(isinstance(o, Figure) for o in gc.get_objects()))

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
    drawn, alive = done.stdout.splitlines()[0].split()
    assert int(drawn) >= 1
    assert alive == "0"


@pytest.mark.parametrize("there", [False, True])
def test_absent_gpus_are_forgotten_and_present_ones_are_not(monkeypatch, there):
    monkeypatch.setenv("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    forget_absent_gpus()
    assert os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] == ("1" if there else "0")


def test_lightning_takes_the_profiler_that_measures_nothing():
    trainer = Trainer(profiler=NoProfiler(), logger=False, enable_checkpointing=False, accelerator="cpu")
    with trainer.profiler.profile("a hook"):
        pass
    assert trainer.profiler.summary() == ""
