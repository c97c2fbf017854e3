import os

import pytest
import torch
from lightning import Trainer

from metasgd.runtime.process import NoProfiler, forget_absent_gpus


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
