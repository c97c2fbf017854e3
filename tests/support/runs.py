"""A small run, and what tests ask of runs."""

from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROOT = Path(__file__).parents[2]
TINY = [
    "--config",
    str(ROOT / "configs" / "sinusoid.yaml"),
    *("--trainer.max_steps", "8", "--trainer.val_check_interval", "4", "--trainer.log_every_n_steps", "1"),
    *("--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"),
    *("--data.val_tasks", "20", "--data.test_tasks", "40"),
]
"""Arguments of a run that takes no time: sinusoid, 8 outer steps, validations after 4 and 8."""
RUN = "runs/sinusoid/version_0"


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    """What TensorBoard shows of a run, with the events of every process that wrote to it."""
    accumulator = EventAccumulator(str(folder)).Reload()
    return [(e.step, e.value) for e in accumulator.Scalars(tag)]


def state(path: str | Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return content


def assert_same(a: object, b: object) -> None:
    """That two nests of plain types and tensors are the same to the bit."""
    if isinstance(a, dict):
        assert isinstance(b, dict)
        assert list(a) == list(b)
        a, b = list(a.values()), list(b.values())
    if isinstance(a, list | tuple):
        assert isinstance(b, list | tuple)
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            assert_same(one, other)
    elif isinstance(a, torch.Tensor):
        assert isinstance(b, torch.Tensor)
        assert torch.equal(a, b)
    else:
        assert a == b


class Ended(Protocol):
    """A command that ended, in this process or another."""

    @property
    def returncode(self) -> int: ...
    @property
    def stderr(self) -> Any: ...


T = TypeVar("T", bound=Ended)


def succeeded(done: T) -> T:
    assert done.returncode == 0, done.stderr
    return done
