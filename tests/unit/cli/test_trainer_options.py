import pytest
from lightning.pytorch.loggers import TensorBoardLogger

from metasgd.cli.trainer_options import TRAINER_DEFAULTS, validate_trainer_options
from metasgd.errors import UserError


def options(**changed):
    usual = {"logger": TensorBoardLogger("runs"), "precision": None, "max_steps": 8, "val_check_interval": 4}
    return {**TRAINER_DEFAULTS, **usual, **changed}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"logger": True}, "trainer.logger must be a TensorBoardLogger"),
        ({"inference_mode": True}, "trainer.inference_mode is true"),
        ({"precision": "16-mixed"}, "trainer.precision is 16-mixed"),
        ({"fast_dev_run": True}, "trainer.fast_dev_run is True"),
        ({"fast_dev_run": 3}, "trainer.fast_dev_run is 3"),
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
        validate_trainer_options(options(**changed), fit=True)


@pytest.mark.parametrize(
    "usual",
    [
        {"overfit_batches": 0.0, "fast_dev_run": False, "accumulate_grad_batches": 1, "gradient_clip_val": None},
        {"val_check_interval": None},
        {"precision": "bf16-mixed"},
    ],
)
def test_the_usual_is_not(usual):
    validate_trainer_options(options(**usual), fit=True)


def test_how_long_to_train_does_not_matter_to_who_judges():
    validate_trainer_options(options(max_steps=-1, val_check_interval=1.0), fit=False)
