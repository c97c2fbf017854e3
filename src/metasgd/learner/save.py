"""A meta-trained learner as one file that holds no code: the counterpart of ``metasgd.load``."""

from importlib.metadata import version
from pathlib import Path

import yaml
from upath import UPath

from metasgd.errors import UserError
from metasgd.learner.meta_learner import MetaLearner
from metasgd.runs.checkpoint_schema import CONFIG_KEY, FORMAT, FORMAT_KEY
from metasgd.runs.safetensors_file import SUFFIX, safetensors_of
from metasgd.runs.storage import write_whole


def save(learner: MetaLearner, path: str | Path | UPath) -> None:
    """Write what ``metasgd.load`` builds again: the weights as safetensors, the configuration in their metadata.

    It can be evaluated, adapted and started from, as any checkpoint; what a training needs to resume is not in it. A
    file of safetensors is unsigned: classes of one's own that it names need ``trust``. Offered as ``metasgd.save``.

    Args:
        learner: as ``metasgd.load`` returns it.
        path: of the file, which ends in ``.safetensors``; one that is there is replaced.

    Raises:
        UserError: the path ends otherwise, the learner has no configuration, safetensors is not installed
            (``pip install metasgd[hub]``), or it has no form for these weights.

    Example:
        >>> import tempfile, metasgd
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(metasgd.load("sinusoid"), f"{folder}/mine.safetensors")
        ...     again = metasgd.load(f"{folder}/mine.safetensors")
        >>> again.adapt([[0.0], [1.0], [2.0]], [0.0, 0.8, 0.9]).predict([[1.5]]).shape
        (1, 1)
    """
    place = UPath(path)
    if place.suffix != SUFFIX:
        raise UserError(f"path is {path}: a learner is written as a file whose name ends in {SUFFIX}")
    if not learner.config:
        raise UserError(
            "learner has no configuration of a run, so nothing could build it again: give one of metasgd.load"
        )
    content = {
        "state_dict": learner.model.state_dict(),
        "global_step": int(learner.model.outer_steps),
        "epoch": 0,
        "pytorch-lightning_version": version("lightning"),  # which its Trainer asks of a file that it evaluates
        CONFIG_KEY: yaml.safe_dump(learner.config, sort_keys=False),
        FORMAT_KEY: FORMAT,
    }
    write_whole(place, safetensors_of(content))
