import pytest
from lightning import Trainer
from lightning.pytorch.callbacks import (
    EarlyStopping,
    GradientAccumulationScheduler,
    LearningRateMonitor,
    ModelCheckpoint,
    StochasticWeightAveraging,
)
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.plugins import HalfPrecision, MixedPrecision, TorchCheckpointIO
from lightning.pytorch.plugins.environments import LightningEnvironment

from metasgd.cli.trainer_options import (
    TRAINER_DEFAULTS,
    explaining_trainer,
    validate_monitors,
    validate_strategy,
    validate_trainer_options,
)
from metasgd.errors import UserError


def options(**changed):
    usual = {"logger": TensorBoardLogger("runs"), "precision": None, "max_steps": 8, "val_check_interval": 4}
    return {**TRAINER_DEFAULTS, **usual, **changed}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"inference_mode": True}, "trainer.inference_mode is true"),
        ({"precision": "16-mixed"}, "trainer.precision is 16-mixed"),
        ({"gradient_clip_algorithm": "norm"}, "trainer.gradient_clip_algorithm is norm"),
        ({"sync_batchnorm": True}, "trainer.sync_batchnorm is True"),
        ({"use_distributed_sampler": True}, "trainer.use_distributed_sampler is True"),
        ({"max_epochs": 0}, "trainer.max_epochs is 0"),
        ({"max_epochs": -2}, "trainer.max_epochs is -2"),
        ({"num_nodes": 0}, "trainer.num_nodes is 0: at least 1"),
        ({"log_every_n_steps": -1}, "trainer.log_every_n_steps is -1: at least 0"),
        ({"limit_val_batches": -3}, "trainer.limit_val_batches is -3: at least 0"),
        ({"limit_train_batches": 0}, "trainer.limit_train_batches is 0: no outer step"),
        ({"plugins": MixedPrecision("16-mixed", "cpu")}, "trainer.precision is 16-mixed"),
        ({"plugins": [HalfPrecision("16-true")]}, "trainer.precision is 16-true"),
        ({"plugins": [TorchCheckpointIO()]}, "trainer.plugins has a CheckpointIO"),
        ({"callbacks": [StochasticWeightAveraging(0.1)]}, "StochasticWeightAveraging, but .* EMAWeightAveraging"),
        ({"callbacks": GradientAccumulationScheduler({0: 2})}, "GradientAccumulationScheduler, but"),
        ({"callbacks": [ModelCheckpoint(save_last=True)]}, "ModelCheckpoint with save_last"),
        ({"callbacks": [ModelCheckpoint(filename="best")]}, "ModelCheckpoint with filename best"),
        ({"barebones": True}, "trainer.barebones is True"),
        ({"overfit_batches": 1}, "trainer.overfit_batches is 1"),
        ({"gradient_clip_val": 1.0}, "model.outer.gradient_clip_norm"),
        ({"accumulate_grad_batches": 2}, "data.meta_batch_size"),
        ({"enable_checkpointing": False}, "trainer.enable_checkpointing is false"),
        ({"max_steps": 0}, "trainer.max_steps is 0"),
        ({"max_steps": -1}, "trainer.max_steps is -1"),
        ({"val_check_interval": 0.5}, "trainer.val_check_interval is 0.5"),
        ({"val_check_interval": "00:01:00:00"}, "trainer.val_check_interval is 00:01:00:00"),
    ],
)
def test_what_meta_training_cannot_do_is_refused(changed, said):
    with pytest.raises(UserError, match=said):
        validate_trainer_options(options(**changed), "fit")


@pytest.mark.parametrize(
    "usual",
    [
        {"overfit_batches": 0.0, "fast_dev_run": False, "accumulate_grad_batches": 1, "gradient_clip_val": None},
        {"val_check_interval": None},
        {"precision": "bf16-mixed"},
        {"precision": "bf16-true"},
        {"precision": "64-true", "plugins": LightningEnvironment()},
        {"fast_dev_run": 3, "max_steps": -1},
        {"limit_train_batches": 0.5, "limit_val_batches": 0, "max_epochs": -1},
        {"logger": False},
        {"logger": [TensorBoardLogger("runs"), CSVLogger("runs")]},
        {"callbacks": ModelCheckpoint(filename="mine", monitor="val/mse")},
    ],
)
def test_the_usual_is_not(usual):
    validate_trainer_options(options(**usual), "fit")


def test_how_long_to_train_does_not_matter_to_who_evaluates():
    validate_trainer_options(options(max_steps=-1, val_check_interval=1.0), "test")


@pytest.mark.parametrize(
    ("command", "limit"),
    [("validate", "limit_val_batches"), ("test", "limit_test_batches"), ("predict", "limit_predict_batches")],
)
@pytest.mark.parametrize("none", [0, 0.0])
def test_a_command_that_would_do_nothing_is_refused(command, limit, none):
    with pytest.raises(UserError, match=f"trainer.{limit} is 0: nothing would be .*. Leave it out"):
        validate_trainer_options(options(**{limit: none}), command)
    for other in {"validate", "test", "predict"} - {command}:
        validate_trainer_options(options(**{limit: none}), other)
    validate_trainer_options(options(**{limit: none}), "fit")


LOGGED = ["val/loss", "val/mse", "train/loss"]


class Own(EarlyStopping):
    """A class of the user's."""


def test_a_callback_that_waits_for_what_is_not_logged_is_refused():
    with pytest.raises(UserError, match="EarlyStopping with monitor val/accuracy, which is not logged: use val/loss"):
        validate_monitors([LearningRateMonitor(), EarlyStopping("val/accuracy")], LOGGED)
    with pytest.raises(UserError, match="ModelCheckpoint with monitor mse, which is not logged: use val/mse"):
        validate_monitors([ModelCheckpoint(monitor="mse")], LOGGED)
    validate_monitors([EarlyStopping("val/mse"), ModelCheckpoint(), ModelCheckpoint(monitor="val/loss")], LOGGED)
    validate_monitors([EarlyStopping("own"), Own("own")], LOGGED)  # which may log it


@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_fork", "ddp_notebook"])
def test_processes_that_leave_no_run_are_refused(strategy):
    trainer = Trainer(accelerator="cpu", devices=2, strategy=strategy, logger=False)
    with pytest.raises(UserError, match=f"trainer.strategy is {strategy}, which .* Use ddp, or auto"):
        validate_strategy(trainer, strategy)


@pytest.mark.parametrize(("devices", "strategy"), [(1, "auto"), (2, "ddp"), (2, "ddp_find_unused_parameters_true")])
def test_processes_of_their_own_program_are_taken(devices, strategy):
    validate_strategy(Trainer(accelerator="cpu", devices=devices, strategy=strategy, logger=False), strategy)


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("strategy", "dpp", "invalid strategy name"),
        ("accelerator", "gpuu", "invalid accelerator name"),
        ("accelerator", "tpu", "not met"),  # a package is missing
        ("devices", -1, "should be an int > 0"),
        ("devices", "x", "should be an int > 0"),
        ("strategy", "fsdp", "requires a GPU accelerator"),
    ],
)
def test_what_the_trainer_cannot_be_made_of_is_one_message(option, value, said):
    config = {"accelerator": "cpu", "devices": 1, "strategy": "auto", "precision": None, option: value}
    refused = pytest.raises(UserError, match=f"the Trainer cannot be made: .*{said}.*trainer.{option} is {value}")
    with refused, explaining_trainer(config):
        Trainer(**config, logger=False)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"max_time": "00:61:61"}, r"valid duration.* DD:HH:MM:SS. \(trainer.max_time is 00:61:61\)$"),
        ({"max_steps": -3}, "max_steps.*-3"),
    ],
)
def test_a_reason_that_is_not_the_machine_comes_without_its_options(given, said):
    config = {"accelerator": "cpu", "devices": 1, "strategy": "auto", "precision": None, "num_nodes": 1, **given}
    with pytest.raises(UserError, match=said) as refused, explaining_trainer(config):
        Trainer(**config, logger=False)
    assert "accelerator" not in str(refused.value)
