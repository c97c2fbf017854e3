"""``report``: one page about a run."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from metasgd.cli.changed_settings import changed_settings
from metasgd.cli.hard_pairs import hardest_pairs
from metasgd.data.class_sampler import ClassSampler
from metasgd.errors import UserError, first_line
from metasgd.learner.load import built, load
from metasgd.learner.meta_learner import MetaLearner
from metasgd.meta.reached import rates_reached, reached
from metasgd.reporting.figures import task_figure
from metasgd.reporting.page import Curve, HardPair, Page, after, page
from metasgd.reporting.text import printable, shell_command
from metasgd.runs.moved_classes import with_present_paths
from metasgd.runs.outputs import validate_output, write_output
from metasgd.runs.plain_yaml import load_yaml
from metasgd.runs.storage import answering
from metasgd.training.callbacks.tensorboard import first_convolution
from metasgd.training.callbacks.trajectories import trajectories_figure
from metasgd.training.datamodule import EpisodicDataModule
from metasgd.training.loggers import CSV_FILE

CURVES = ("loss", "accuracy", "mse", "return")
BATCH = 25  # tasks evaluated at a time
EXAMPLES = 3


@dataclass(frozen=True)
class Evaluated:
    """What test tasks showed.

    Attributes:
        measured: the metric of each, ``[B, S + 1]``.
        pairs: the classes taken for each other most; None where tasks have no classes.
        paths: where agents went, if they moved on a plane.
        reached: names of the parameters that an inner gradient reaches.
        examples: figures of the first tasks, if they are of pictures.
    """

    measured: Tensor
    pairs: list[HardPair] | None
    paths: Figure | None
    reached: frozenset[str]
    examples: list[Figure]


def report(run: str, output: str | None = None, tasks: int = 200, trust_checkpoint: bool = False) -> None:
    """Write one self-contained HTML page about a run.

    Example tasks, settings that differ from the defaults, curves, learned rates, accuracy by inner step, the classes
    most often taken for each other, and the commands that repeat it.

    Args:
        run: the run's folder, runs/NAME/version_K.
        output: the page to write; report.html in the run's folder by default.
        tasks: test tasks to evaluate best.ckpt on for the page, at least 2; where their data are not to be had, the
            page says why.
        trust_checkpoint: import any class that the run names, which runs code: only where you trust its maker.
            Without it, those of metasgd, torch, torchvision, lightning and timm are allowed.
    """
    folder = Path(run)
    config_file = folder / "config.yaml"
    with answering(folder, "run"):
        config, checkpoint = _config(config_file), _checkpoint(folder)
    if tasks < 2:
        raise UserError(f"--tasks is {tasks}: at least 2 are needed")
    place = folder / "report.html" if output is None else Path(output)
    validate_output(place, "--output", [path for path in folder.rglob("*") if path.name != "report.html"])
    learner = load(checkpoint, trust_checkpoint)
    evaluated: Evaluated | None = None
    missing = ""
    try:
        options = (learner.config if learner.trusted else config).get("data")  # a config.yaml has no signature
        evaluated = _evaluate(learner, options, tasks, learner.trusted)
    except UserError as error:
        missing = str(error)
    rates = {n: rate.detach().float() for n, rate in learner.model.update_rule.learned_rates().items()}
    content = page(
        Page(
            title=f"{folder.resolve().parent.name} / {folder.resolve().name}",
            metric=learner.model.objective.metric,
            checkpoint=f"{checkpoint.name} {after(int(learner.model.outer_steps))}",
            config=config,
            changed=changed_settings(config),
            examples=[] if evaluated is None else evaluated.examples,
            curves=_curves(folder),
            rates=rates,
            start=learner.model.update_rule.init,
            reached=None if evaluated is None else rates_reached(evaluated.reached),
            first_convolution=first_convolution(learner.model.network),
            measured=None if evaluated is None else evaluated.measured,
            pairs=[] if evaluated is None else evaluated.pairs,
            paths=None if evaluated is None else evaluated.paths,
            missing=missing,
            recorded=recorded_in(folder / "results.json"),
            commands=[
                shell_command(["python", "-m", "metasgd", "fit", "--config", config_file]),
                shell_command(["python", "-m", "metasgd", "test", "--config", config_file, "--ckpt_path", checkpoint]),
            ],
        )
    )
    write_output(place, content.encode(), "--output")
    print(printable(f"written: {place}"))


def _config(file: Path) -> dict[str, Any]:
    """The run's configuration.

    Raises:
        UserError: there is none, or it is not of fit.
    """
    if not file.is_file():
        raise UserError(f"run is {file.parent}: no config.yaml is there. Give the folder of a run, runs/NAME/version_K")
    try:
        config = with_present_paths(load_yaml(file.read_text(encoding="utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"run is {file.parent}: its config.yaml is no YAML ({first_line(error)})") from error
    if not isinstance(config, dict) or "model" not in config:
        of = "of train or compare" if isinstance(config, dict) and "problem" in config else "not of a run of fit"
        raise UserError(
            f"run is {file.parent}: its config.yaml is {of}, but report is for runs of fit. Give the folder of one;"
            " what train and compare found is in their results.json"
        )
    return config


def _checkpoint(folder: Path) -> Path:
    for name in ("best.ckpt", "last.ckpt"):
        if (folder / "checkpoints" / name).is_file():
            return folder / "checkpoints" / name
    raise UserError(f"run is {folder}: it has no checkpoint yet. Wait for its first, or give another run")


def recorded_in(file: Path) -> dict[str, Any] | None:
    """What a test found, if there was one.

    Raises:
        UserError: it is damaged.
    """
    try:
        found: dict[str, Any] | None = json.loads(file.read_bytes()) if file.is_file() else None
    except ValueError as error:
        raise UserError(f"{file} is damaged ({error}): evaluate the run again, by test, or delete the file") from error
    return found


def _curves(folder: Path) -> list[Curve]:
    """What the run logged, each split's losses and metric."""
    logged = _logged(folder)
    found = []
    for name in CURVES:
        of_splits = {split: logged[tag] for split in ("train", "val") if (tag := f"{split}/{name}") in logged}
        if of_splits:
            found.append(Curve(name, of_splits))
    return found


def _logged(folder: Path) -> dict[str, tuple[list[int], list[float]]]:
    """Steps and values by their names, of TensorBoard's files or of a CSVLogger's, without a logger's prefix."""
    found: dict[str, tuple[list[int], list[float]]] = {}
    for place in sorted({file.parent for file in folder.rglob("events.out.tfevents.*")}):
        events = EventAccumulator(str(place)).Reload()
        for tag in events.Tags()["scalars"]:
            scalars = events.Scalars(tag)
            found[tag.rpartition("-")[2]] = ([e.step for e in scalars], [e.value for e in scalars])
    if found or not (folder / CSV_FILE).is_file():
        return found
    with (folder / CSV_FILE).open(newline="") as text:
        for row in csv.DictReader(text):
            for tag, value in row.items():
                if value and tag != "step":
                    steps, values = found.setdefault(tag.rpartition("-")[2], ([], []))
                    steps.append(int(row["step"]))
                    values.append(float(value))
    return found


def _evaluate(learner: MetaLearner, options: Any, n: int, trust: bool) -> Evaluated:
    """Adapt to the run's first test tasks.

    Raises:
        UserError: their data are not to be had.
    """
    data: EpisodicDataModule = built(EpisodicDataModule, options, "the data of the run", trust)
    data.prepare_data()
    data.setup("test")
    sampler, module = data.samplers["test"], learner.model.eval()
    measured, drawn, predicted = [], [], []
    for start in range(0, n, BATCH):
        batch = sampler.draw(np.arange(start, min(start + BATCH, n)))
        evaluation = module.evaluate(batch, after=range(module.eval_inner_steps + 1))
        outputs = evaluation.outputs
        measured.append(evaluation.measured(module.objective, batch))
        drawn.append(batch)
        predicted.append(outputs[:, -1].argmax(dim=-1))
    pairs = hardest_pairs(sampler.pool, drawn, predicted) if isinstance(sampler, ClassSampler) else None
    first = module.as_inputs(drawn[0])
    moved = reached(module.config, module.held.names, first, module.eval_inner_steps)
    shown = range(min(EXAMPLES, drawn[0].n_tasks)) if isinstance(sampler, ClassSampler) else ()
    examples = [task_figure(drawn[0].tasks(b, b + 1), predicted[0][b]) for b in shown]
    return Evaluated(torch.cat(measured), pairs, trajectories_figure(module, first), moved, examples)
