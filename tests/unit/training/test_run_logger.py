import time

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from metasgd.training.run_logger import RunLogger


def log(folder, values, purge_step=None):
    logger = RunLogger(str(folder), "run", 0, default_hp_metric=False, purge_step=purge_step)
    for step, value in values.items():
        logger.log_metrics({"loss": value}, step)
    logger.finalize("success")
    logger.experiment.close()


@pytest.mark.parametrize("second", [1_500_000_000.0, 1_700_000_000.0], ids=["clock behind", "in the same second"])
def test_a_resumed_run_is_read_after_its_first_life(second, tmp_path, monkeypatch):
    """Also by a TensorBoard that is open meanwhile, which looks for files after the one that it reads."""
    now = [1_700_000_000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    log(tmp_path, {0: 1.0, 1: 2.0, 2: 3.0})
    open_meanwhile = EventAccumulator(str(tmp_path / "run" / "version_0")).Reload()
    for k in range(3):
        now[0] = second
        log(tmp_path, {1: 20.0 + k, 2: 30.0 + k, 3: 40.0 + k}, purge_step=1)
    for shown in (open_meanwhile.Reload(), EventAccumulator(str(tmp_path / "run" / "version_0")).Reload()):
        assert [(e.step, e.value) for e in shown.Scalars("loss")] == [(0, 1.0), (1, 22.0), (2, 32.0), (3, 42.0)]
