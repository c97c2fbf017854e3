"""What ``predict`` leaves: a row for every query of every test task."""

import csv
import io
from typing import Any

import torch.distributed
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from metasgd.data.class_sampler import ClassSampler
from metasgd.data.csv_cells import csv_cell
from metasgd.episode import Episode
from metasgd.runs.storage import write_whole
from metasgd.training.callbacks.of_trainer import data_of, written_in
from metasgd.training.loggers import folder_of
from metasgd.training.module import MetaSGDModule


class WritePredictions(Callback):
    """Writes ``predictions.csv`` in the run's folder: the tasks in their order, whatever process predicted them.

    Of classes: ``task,query,label,predicted,probability``, by the classes' names; in regression
    ``task,query,output,target,predicted``, a row per output.
    """

    def __init__(self) -> None:
        self._file = io.StringIO(newline="")
        self._table = csv.writer(self._file)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, MetaSGDModule)
        classes = pl_module.objective.metric == "accuracy"
        own = ("label", "predicted", "probability") if classes else ("output", "target", "predicted")
        if trainer.is_global_zero:
            self._table.writerow(["task", "query", *own])

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Tensor, batch: Episode, *args: Any
    ) -> None:
        assert isinstance(pl_module, MetaSGDModule)
        sampler = data_of(trainer).samplers["test"]
        rows = _class_rows if pl_module.objective.metric == "accuracy" else _regression_rows
        for b, task in enumerate(batch.task_index.tolist()):
            for row in rows(outputs[b].float(), batch.tasks(b, b + 1), sampler):
                self._table.writerow([task, *row])

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        file = folder_of(trainer) / "predictions.csv"
        parts: list[Any] = [self._file.getvalue()]
        if trainer.world_size > 1:  # each has a run of the tasks, in the order of the processes
            own, parts = parts[0], [None] * trainer.world_size
            torch.distributed.gather_object(own, parts if trainer.is_global_zero else None)
        if not trainer.is_global_zero:
            return
        with written_in(file.parent):
            write_whole(file, "".join(parts).encode())
        print(f"written: {file}")


def _class_rows(probabilities: Tensor, task: Episode, sampler: Any) -> list[list[Any]]:
    classes = task.classes[0].tolist()
    names = [sampler.pool.names[c] for c in classes] if isinstance(sampler, ClassSampler) else classes
    found, predicted = probabilities.max(dim=-1)
    answers = zip(task.query_y[0].tolist(), predicted.tolist(), found.tolist(), strict=True)
    return [
        [q, csv_cell(names[label]), csv_cell(names[answer]), f"{p:.6f}"] for q, (label, answer, p) in enumerate(answers)
    ]


def _regression_rows(outputs: Tensor, task: Episode, sampler: Any) -> list[list[Any]]:  # noqa: ARG001
    return [
        [q, o, f"{target:.6g}", f"{predicted:.6g}"]
        for q, (targets, values) in enumerate(zip(task.query_y[0].tolist(), outputs.tolist(), strict=True))
        for o, (target, predicted) in enumerate(zip(targets, values, strict=True))
    ]
