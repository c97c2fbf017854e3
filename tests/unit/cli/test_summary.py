"""What fit says of a training before and after it."""

from types import SimpleNamespace

import pytest
from lightning import Trainer

from metasgd.cli import closing
from metasgd.cli.summary import _validation


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "a validation is 1,500 tasks"),
        ({"limit_val_batches": 1}, "a validation is 1,500 tasks, limited by trainer.limit_val_batches 1"),
        ({"limit_val_batches": 0.5}, "a validation is 1,500 tasks, limited by trainer.limit_val_batches 0.5"),
        ({"fast_dev_run": 2}, "a validation is 1,500 tasks, limited by trainer.fast_dev_run 2"),
        ({"limit_val_batches": 0}, "no validation"),
    ],
)
def test_a_limited_validation_is_said_to_be(given, said):
    assert _validation(Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, **given), 1500) == said


@pytest.mark.parametrize(("step", "said"), [(1, "after 1 outer step,"), (2, "after 2 outer steps,")])
def test_one_step_is_singular(step, said, monkeypatch):
    monkeypatch.setattr(closing, "saved_step", lambda path: step)
    best = SimpleNamespace(best_model_score=0.5, monitor="val/mse")
    assert said in closing.closing_lines("runs/x", best)[0]
