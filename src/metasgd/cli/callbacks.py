"""What accompanies a command: the callbacks of a run, in the order that they need."""

from collections.abc import Sequence
from typing import Any

import yaml
from lightning.pytorch.callbacks import Callback

from metasgd.reporting.figures import settings_of
from metasgd.runtime.launch import ConsistentCheckpoint
from metasgd.runtime.process import CollectAfterValidation
from metasgd.training.callbacks.checkpoints import BestCheckpoint
from metasgd.training.callbacks.curves import CountRates, ShowChoices, ShowCurves
from metasgd.training.callbacks.predictions import WritePredictions
from metasgd.training.callbacks.results import SayValidations, ShowEvaluation
from metasgd.training.callbacks.tensorboard import ShowPace, ShowRates, ShowSettings, ShowTasks
from metasgd.training.callbacks.trajectories import ShowTrajectories
from metasgd.training.ensemble import Member
from metasgd.training.loggers import CheckpointsInRun


def callbacks_of(
    command: str,
    own: Sequence[Callback],
    best: BestCheckpoint,
    start: str,
    members: Sequence[Member],
    options: dict[str, Any],
    configured: dict[str, Any],
) -> list[Callback]:
    """The callbacks of a run.

    Args:
        command: fit, validate, test or predict.
        own: those of the command line, LastCheckpoint among them.
        best: what saves the best checkpoint.
        start: what the run starts from, in words.
        members: what is evaluated.
        options: the command's, as parsed.
        configured: the whole configuration.
    """
    return [
        ConsistentCheckpoint(start),
        CheckpointsInRun(),
        best,  # before LastCheckpoint, which is to save what this one found
        *own,
        CountRates(),
        ShowPace(),
        ShowCurves(),
        ShowChoices(),
        ShowRates(),
        ShowTasks(),
        ShowTrajectories(),
        CollectAfterValidation(),
        ShowSettings(settings_of(options), best, yaml.safe_dump(configured, sort_keys=False)),
        SayValidations(),
        *([ShowEvaluation(configured["data"]["source"], members)] if command in ("test", "validate") else []),
        *([WritePredictions()] if command == "predict" else []),
    ]
