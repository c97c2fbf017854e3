"""Optimizers that train other weights than they evaluate, as schedule-free ones do by ``train()`` and ``eval()``."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from metasgd.errors import UserError
from metasgd.runs.checkpoint_schema import TRAINING_WEIGHTS_KEY
from metasgd.training.rehearsal import training_modes


class EvaluationWeights(Callback):
    """Validates and saves the weights that the optimizer evaluates, and trains on from the others to the same bits.

    ``eval()`` and ``train()`` undo each other up to rounding only, so the training weights are held meanwhile: how
    often a run validates or saves does not show in it.
    """

    def __init__(self) -> None:
        self.held: list[torch.Tensor] = []
        self.trains = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.trains = True
        for to_train, _ in _modes(trainer):
            to_train()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.trains = False
        for _, to_evaluate in _modes(trainer):
            to_evaluate()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.trains:
            self._evaluate(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.trains:
            self._train(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if not _modes(trainer) or not self.trains:
            return
        checkpoint[TRAINING_WEIGHTS_KEY] = {n: t.clone() for n, t in pl_module.state_dict().items()}
        with self._evaluating(trainer):
            checkpoint["state_dict"] = {n: t.clone() for n, t in pl_module.state_dict().items()}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn == "fit" and TRAINING_WEIGHTS_KEY in checkpoint:
            try:
                pl_module.load_state_dict(checkpoint[TRAINING_WEIGHTS_KEY])
            except RuntimeError as error:
                raise UserError(
                    f"the checkpoint's {TRAINING_WEIGHTS_KEY} do not fit the model"
                    f" ({str(error).splitlines()[-1].strip()}). Give another, such as best.ckpt of the same run"
                ) from error

    @contextmanager
    def _evaluating(self, trainer: Trainer) -> Iterator[None]:
        self._evaluate(trainer)
        try:
            yield
        finally:
            self._train(trainer)

    def _evaluate(self, trainer: Trainer) -> None:
        for _, to_evaluate in _modes(trainer):
            self.held = [p.detach().clone() for p in _parameters(trainer)]
            to_evaluate()

    def _train(self, trainer: Trainer) -> None:
        for to_train, _ in _modes(trainer):
            to_train()
            with torch.no_grad():
                for p, held in zip(_parameters(trainer), self.held, strict=True):
                    p.copy_(held)
            self.held = []


class KeepCount(Callback):
    """Keeps the count of outer steps out of averages of weights, which average a module's buffers as well."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.count = _count(pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.get_buffer("outer_steps").copy_(self.count)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"] = {**checkpoint["state_dict"], "outer_steps": _count(pl_module)}


def _count(module: LightningModule) -> torch.Tensor:
    return module.get_buffer("outer_steps").clone()


def _modes(trainer: Trainer) -> list[list[Any]]:
    return [modes for optimizer in trainer.optimizers if (modes := training_modes(optimizer))]


def _parameters(trainer: Trainer) -> list[torch.Tensor]:
    return [p for group in trainer.optimizers[0].param_groups for p in group["params"]]
