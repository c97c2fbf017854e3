"""Several checkpoints where one may be given: paths with commas between, or the best few of a run."""

import re
from pathlib import Path

from upath import UPath

from metasgd.errors import UserError, counted
from metasgd.runs.checkpoint_file import read_checkpoint
from metasgd.runs.folders import Run, run_with
from metasgd.runs.storage import answering, is_saved

_BEST = re.compile(r"best:(\d+)")


def checkpoints_given(
    ckpt_path: str | None, save_dir: UPath, name: str, version: int | str | None, fit: bool
) -> list[str | None]:
    """The checkpoints that ``--ckpt_path`` gives, in the order given: usually one.

    Args:
        ckpt_path: a path or keyword, or several with commas between. ``best:K`` stands for the K best that the
            validations of a run saved. None: none is given, which is then all that is returned.
        save_dir: the folder of all runs.
        name: of the run that is meant.
        version: of that run; by default the newest that has a checkpoint.
        fit: whether a run is to be resumed, which takes one.

    Raises:
        UserError: one has no name or is given twice, or there are not so many.
    """
    if ckpt_path is None:
        return [None]
    names = split_names(ckpt_path)
    found: list[str | None] = []
    for one in names:
        best = _BEST.fullmatch(one)
        found += [one] if best is None else _best(int(best[1]), save_dir, name, version)
    if fit and (len(found) > 1 or found[0] != ckpt_path):
        raise UserError(
            f"--ckpt_path is {ckpt_path}: fit resumes one checkpoint. Give last, best or a file; test, validate,"
            " predict and adapt take several"
        )
    return found


def split_names(ckpt_path: str) -> list[str]:
    """The names between commas; a file whose name has commas is one checkpoint.

    Raises:
        UserError: one is empty or given twice.

    Example:
        >>> split_names("omniglot, best:3,runs/x/version_0/checkpoints/last.ckpt")
        ['omniglot', 'best:3', 'runs/x/version_0/checkpoints/last.ckpt']
    """
    if "," not in ckpt_path or Path(ckpt_path).exists():
        return [ckpt_path]
    names = [name.strip() for name in ckpt_path.split(",")]
    if "" in names:
        raise UserError(f"--ckpt_path is {ckpt_path}: a checkpoint is missing beside a comma")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(f"--ckpt_path is {ckpt_path}, which gives {twice[0]} twice: give each checkpoint once")
    return names


def _best(k: int, save_dir: UPath, name: str, version: int | str | None) -> list[str | None]:
    option = f"--ckpt_path is best:{k}"
    if k < 1:
        raise UserError(f"{option}: at least 1 is needed")
    with answering(save_dir, "trainer.logger.init_args.save_dir"):
        number = version if isinstance(version, int) else None
        run = run_with("last", save_dir, name, number)
        if run is None:
            newest = f"no run in {save_dir / name} has a"
            lacks = newest if number is None else f"the run {Run(save_dir, name, number).folder} has no"
            raise UserError(f"{option}, but {lacks} checkpoints/last.ckpt. Train one with fit, or give a file")
        saved = saved_by_value(run)
    if len(saved) < k:
        raise UserError(
            f"{option}, but {run.folder} has {counted(len(saved), 'checkpoint')} that a validation chose."
            " Train with --trainer.callbacks+=ModelCheckpoint --trainer.callbacks.monitor=val/accuracy"
            f" --trainer.callbacks.mode=max --trainer.callbacks.save_top_k={k}, which saves as many (val/mse and min in"
            " regression), or ask for fewer"
        )
    return [str(path) for path in saved[:k]]


def saved_by_value(run: Run) -> list[UPath]:
    """The checkpoints in a run's folder that were chosen by the metric of its ``best.ckpt``, the best first.

    What the same outer step was saved as twice counts once.
    """
    last = read_checkpoint(run.checkpoint("last"))
    states = {key: state for key, state in last.get("callbacks", {}).items() if isinstance(state, dict)}
    metric = next((s.get("monitor") for key, s in states.items() if key.startswith("BestCheckpoint")), None)
    values: dict[UPath, float] = {}
    for key, state in states.items():
        if metric is None or state.get("monitor") != metric or not isinstance(state.get("best_k_models"), dict):
            continue
        sign = -1 if "'mode': 'max'" in key else 1
        for path, value in state["best_k_models"].items():
            values[run.folder / "checkpoints" / Path(path).name] = sign * float(value)
    found: dict[int, UPath] = {}
    for path in sorted(filter(is_saved, values), key=lambda path: (values[path], path.name)):
        found.setdefault(int(read_checkpoint(path)["global_step"]), path)
    return list(found.values())
