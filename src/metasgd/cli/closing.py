"""What ``fit`` says at its end."""

from upath import UPath

from metasgd.cli.overview import program
from metasgd.errors import counted
from metasgd.reporting.text import printable, shell_command
from metasgd.runs.folders import saved_step
from metasgd.training.callbacks.checkpoints import BestCheckpoint


def closing_lines(folder: str, best: BestCheckpoint) -> list[str]:
    """Where the run lies, what its checkpoints hold, and what to do with them.

    Args:
        folder: of the run.
        best: what saved its best checkpoint.
    """
    step = saved_step(UPath(folder) / "checkpoints" / "last.ckpt")
    if step is None:
        return [printable(f"written to {folder}: no checkpoint, since no outer step was taken")]
    score = best.best_model_score
    reached = "" if score is None else f", best.ckpt with {best.monitor} {float(score):.4g}"
    checkpoint = f"{folder}/checkpoints/{'best' if reached else 'last'}.ckpt"
    test = ["test", "--config", f"{folder}/config.yaml", "--ckpt_path", checkpoint]
    return [
        printable(f"written to {folder}: last.ckpt after {counted(step, 'outer step')}{reached}"),
        f"evaluate it on test tasks: {shell_command([*program().split(), *test])}",
    ]
