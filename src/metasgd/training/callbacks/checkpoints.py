"""What happens around training: checkpoints, the record of a test."""

import signal
import sys
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint, ModelCheckpoint, OnExceptionCheckpoint
from upath import UPath

from metasgd.errors import raise_problems, too_small
from metasgd.runs.checkpoint_schema import MADE_BY_KEY
from metasgd.runs.folders import saved_step
from metasgd.runtime.signals import SIGNALS, fewest, leave
from metasgd.training.loggers import flush, folder_of
from metasgd.training.resuming import made_by


class LastCheckpoint(Checkpoint):
    """Saves ``checkpoints/last.ckpt``, only where a run resumes to the same bits and curves.

    That is between two outer steps, once the first is logged and the validation that follows it is done; and at the
    end. On SIGTERM and SIGINT (once) the outer step at work is finished, saved, and left with ``128 + signal``, as a
    scheduler expects; a second SIGINT leaves at once. So does the signal before the end of a job of SLURM (SIGUSR1, by
    Lightning's ``SLURMEnvironment``), which requeues the job. A validation is left between two of its batches; a
    resumed run takes the outer step before it again.

    Args:
        every_n_steps: outer steps between two writes; others are before and after each validation, and at the end.
    """

    def __init__(self, every_n_steps: int = 100) -> None:
        raise_problems(too_small(("every_n_steps", every_n_steps, 1)))
        self.every_n_steps = every_n_steps
        self.saved_at = self.validated_at = 0
        self.made_by: dict[str, Any] = {}
        self.common_val_batches = 0

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if not self.made_by:
            return  # an error before the training began, of which another callback saves what there is
        checkpoint[MADE_BY_KEY] = self.made_by
        loop = checkpoint["loops"]["fit_loop"]
        batches, epochs = loop["epoch_loop.batch_progress"], loop["epoch_progress"]
        # of a finished run too, which continues if it is resumed with more steps
        batches["is_last_batch"] = False
        current, total = batches["current"], batches["total"]
        between = current["ready"] > current["processed"]  # or in a step that an exception left
        over = epochs["current"]["processed"] > epochs["current"]["completed"]
        planned = self._validates_after(trainer, current["processed"], total["processed"])
        validated = planned and not over and total["processed"] == self.validated_at
        in_validation = planned and self._is_training(trainer) and trainer.validating and not validated
        if in_validation:  # which an exception left: it is due from its first batch
            of_validation = loop["epoch_loop.val_loop.batch_progress"]
            of_validation["current"] = dict.fromkeys(of_validation["current"], 0)
            for counts in (of_validation["total"], of_validation["current"]):
                counts["processed"] = counts["completed"]
                counts["ready"] = counts["started"] = counts["completed"] + 1
        # Lightning resumes from the end of a step, or from that of its validation: all else is passed on as one of them
        for counts in (total, current):
            counts["ready"] = counts["started"] = counts["processed"]
            if counts["completed"] == counts["processed"] and not (validated or in_validation):
                counts["completed"] -= 1
        loop["epoch_loop.state_dict"]["_batches_that_stepped"] -= between or over
        for counts in (epochs["total"], epochs["current"]):
            counts["processed"] -= over

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            SIGNALS.note(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            SIGNALS.obey()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        schedules = [config.scheduler for config in trainer.lr_scheduler_configs]
        self.made_by = made_by(trainer.optimizers[0], schedules[0] if schedules else None)  # before any step

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.saved_at = trainer.fit_loop.total_batch_idx + 1
        batches = _batches(trainer)
        if batches["completed"] == batches["processed"]:  # otherwise the validation that is due comes first
            self.validated_at = batches["processed"]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        done = trainer.fit_loop.total_batch_idx
        leaving = SIGNALS.agreed(trainer)
        if leaving or done % self.every_n_steps == 0 or self._validates_after(trainer, batch_idx + 1, done + 1):
            self._save(trainer, done)
        if leaving:
            self._leave(trainer, leaving)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._is_training(trainer):
            self.common_val_batches = fewest(trainer, int(sum(trainer.num_val_batches)))

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if self._is_training(trainer) and batch_idx < self.common_val_batches:
            leaving = SIGNALS.agreed(trainer)
            if leaving:
                self._leave(trainer, leaving, "in the validation ")

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._is_training(trainer):
            self.validated_at = _batches(trainer)["processed"]

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._is_training(trainer):
            self._save(trainer, trainer.fit_loop.total_batch_idx + 1)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer, trainer.fit_loop.total_batch_idx + 1)

    @staticmethod
    def _is_training(trainer: Trainer) -> bool:
        return trainer.state.fn == "fit" and not trainer.sanity_checking

    @staticmethod
    def _validates_after(trainer: Trainer, steps: int, steps_in_all: int) -> bool:
        """Whether a validation is planned after so many steps of this epoch, and of the run."""
        n = trainer.check_val_every_n_epoch
        if not trainer.enable_validation or (n is not None and (trainer.current_epoch + 1) % n):
            return False
        assert isinstance(trainer.val_check_batch, int | float)  # validate_trainer_options takes no time instead
        return (steps_in_all if n is None else steps) % trainer.val_check_batch == 0

    def _save(self, trainer: Trainer, steps: int) -> None:
        """Save what so many outer steps made, if that is not done yet."""
        if steps == self.saved_at:
            return
        if trainer.is_global_zero:
            flush(trainer.loggers)
        trainer.save_checkpoint(str(_last_of(trainer)), weights_only=False)
        self.saved_at = steps

    @staticmethod
    def _leave(trainer: Trainer, number: int, where: str = "") -> None:
        last = _last_of(trainer)
        if trainer.is_global_zero:
            step, name = saved_step(last), signal.Signals(number).name
            saved = "nothing was saved yet" if step is None else f"{last} of outer step {step}"
            print(f"stopped by {name} {where}after {trainer.global_step} steps: {saved}", file=sys.stderr)
        leave(trainer, number)


def _batches(trainer: Trainer) -> dict[str, int]:
    """How many batches of the run are ready, started, processed and completed."""
    counts: dict[str, int] = trainer.fit_loop.epoch_loop.batch_progress.state_dict()["total"]
    return counts


def _last_of(trainer: Trainer) -> UPath:
    return folder_of(trainer) / "checkpoints" / "last.ckpt"


class BestCheckpoint(ModelCheckpoint):
    """Keeps ``checkpoints/best.ckpt``, by the metric on the validation tasks; also in a run that was moved."""

    def __init__(self, metric: str, higher_is_better: bool) -> None:
        super().__init__(
            filename="best",
            monitor=f"val/{metric}",
            mode="max" if higher_is_better else "min",
            save_top_k=1,
            enable_version_counter=False,
            save_on_train_epoch_end=False,
            save_weights_only=False,
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        assert self.dirpath is not None
        best = UPath(self.dirpath) / "best.ckpt"
        if not best.is_file():
            return  # a new run from another's checkpoint: its own best is still to come
        paths = dict.fromkeys(("best_model_path", "kth_best_model_path"), str(best))
        scores = {str(best): state_dict["kth_value"]}
        super().load_state_dict({**state_dict, **paths, "dirpath": self.dirpath, "best_k_models": scores})


class ExceptionCheckpoint(Checkpoint):
    """Saves for a user's OnExceptionCheckpoint, which a Trainer that has it resumes from without being asked.

    Here ``--ckpt_path`` alone says what a run resumes from. As there, a fit that ends well removes the file.

    Args:
        of_user: says where to save.
    """

    def __init__(self, of_user: OnExceptionCheckpoint) -> None:
        self.of_user = of_user

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.of_user.on_exception(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            self.of_user.teardown(trainer)


def resumed_by_request(callbacks: list[Callback]) -> list[Callback]:
    """The user's callbacks, with an ``ExceptionCheckpoint`` for each OnExceptionCheckpoint."""
    return [ExceptionCheckpoint(c) if isinstance(c, OnExceptionCheckpoint) else c for c in callbacks]
