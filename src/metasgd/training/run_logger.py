"""The logger of a run: its folder is the run's folder, for every command that trains or evaluates one."""

from lightning.pytorch.loggers import TensorBoardLogger

from metasgd.runs.folders import Start


def logger_of(start: Start, save_dir: str, name: str, trains: bool) -> TensorBoardLogger:
    """The logger of the run that ``start`` resumes or evaluates, otherwise of a new run ``save_dir/name/version_K``.

    Args:
        start: where the command starts from.
        save_dir: the folder of all runs.
        name: of the run.
        trains: whether what was logged after the checkpoint will be logged again, and is to be dropped.
    """
    run = start.run
    return TensorBoardLogger(
        save_dir=str(run.save_dir) if run else save_dir,
        name=run.name if run else name,
        version=run.version if run else None,
        default_hp_metric=False,
        purge_step=start.outer_step if run and trains else None,
    )
