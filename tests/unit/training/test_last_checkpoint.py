"""When last.ckpt is written: by real runs in this process, whose ends are compared with a run that was not stopped."""

import signal

import pytest
import torch
from support.runs import TINY
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from metasgd.cli.main import main
from metasgd.runs.checkpoint_file import read_checkpoint
from metasgd.training.callbacks.checkpoints import LastCheckpoint
from metasgd.training.module import MetaSGDModule

RUN = "runs/sinusoid/version_0"
LAST, BEST = f"{RUN}/checkpoints/last.ckpt", f"{RUN}/checkpoints/best.ckpt"
RARELY = ["--last_checkpoint.every_n_steps", "100"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["metasgd"])
    return tmp_path


def ran_through(folder, *options):
    """A run of 8 steps that nothing stopped."""
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        patched.setattr("sys.argv", ["metasgd"])
        assert main(["fit", *TINY, *options]) == 0
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return ran_through(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def whole_in_batches(tmp_path_factory):
    return ran_through(tmp_path_factory.mktemp("batches"), *BATCHES)


def curve(run, tag):
    return [(e.step, e.value) for e in EventAccumulator(str(run)).Reload().Scalars(tag)]


def assert_same_checkpoint(file, expected):
    a, b = (read_checkpoint(path) for path in (file, expected))
    assert a["global_step"] == b["global_step"]
    for key, weights in b["state_dict"].items():
        assert torch.equal(a["state_dict"][key], weights)
    for one, other in zip(a["optimizer_states"], b["optimizer_states"], strict=True):
        for parameter, state in other["state"].items():
            assert all(torch.equal(one["state"][parameter][k], v) for k, v in state.items())
    assert a["lr_schedulers"] == b["lr_schedulers"]


def assert_same_run(folder, whole):
    for name in (LAST, BEST):
        assert_same_checkpoint(folder / name, whole / name)
    for tag in ("train/loss", "val/mse", "outer/gradient_norm"):
        assert curve(folder / RUN, tag) == curve(whole / RUN, tag)


def signal_in_validation(monkeypatch, number, at):
    """Send a signal in the validation step of that number, from 1."""
    step, calls = MetaSGDModule.validation_step, []

    def validation_step(self, *arguments, **options):
        calls.append(1)
        if len(calls) == at:
            signal.raise_signal(number)
        return step(self, *arguments, **options)

    monkeypatch.setattr(MetaSGDModule, "validation_step", validation_step)
    return calls


BATCHES = ["--data.meta_batch_size", "4"]  # of validation: 5, and so many steps of it


@pytest.mark.parametrize(
    ("at", "step", "number"),
    [(2, 3, signal.SIGTERM), (7, 7, signal.SIGINT)],
    ids=["the first, SIGTERM", "the last, SIGINT"],
)
def test_a_validation_is_left_at_once_and_the_run_resumes_to_the_same_bits(
    at, step, number, folder, whole_in_batches, monkeypatch, capsys
):
    with monkeypatch.context() as patched:
        calls = signal_in_validation(patched, number, at)
        with pytest.raises(SystemExit) as left:
            main(["fit", *TINY, *BATCHES, *RARELY])
    assert left.value.code == 128 + number
    assert len(calls) == at  # no batch was evaluated after the signal
    said = capsys.readouterr().err
    assert f"stopped by {number.name} in the validation after {step + 1} steps" in said
    assert f"last.ckpt of outer step {step}" in said
    assert read_checkpoint(folder / LAST)["global_step"] == step
    assert main(["fit", *TINY, *BATCHES, *RARELY, "--ckpt_path", "last"]) == 0
    assert_same_run(folder, whole_in_batches)


def test_a_validation_after_the_first_step_can_be_left_too(folder, monkeypatch, capsys):
    signal_in_validation(monkeypatch, signal.SIGTERM, at=1)
    with pytest.raises(SystemExit):
        main(["fit", *TINY, *BATCHES, "--trainer.val_check_interval", "1"])
    assert "in the validation after 1 steps: nothing was saved yet" in capsys.readouterr().err


class StopsAfter(LastCheckpoint):
    """Ends the training early, as max_time does."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        trainer.should_stop = trainer.should_stop or batch_idx + 1 == 6


ENDS = {
    "never validated": (["--trainer.check_val_every_n_epoch", "2"], 8),
    "without validation tasks": (["--trainer.limit_val_batches", "0"], 8),
    "by its batches": (["--trainer.limit_train_batches", "3"], 3),
    "between two validations": (["--trainer.val_check_interval", "5"], 8),
}


@pytest.mark.parametrize("case", ENDS)
def test_the_closing_line_states_the_step_that_is_saved(case, folder, capsys):
    options, steps = ENDS[case]
    assert main(["fit", *TINY, *RARELY, *options]) == 0
    assert f"last.ckpt after {steps} outer steps" in capsys.readouterr().out
    assert read_checkpoint(folder / LAST)["global_step"] == steps


@pytest.mark.parametrize("validation", [[], ["--trainer.limit_val_batches", "0"]], ids=["validated", "not validated"])
def test_a_run_that_was_ended_early_resumes_to_the_same_bits(validation, folder, whole, monkeypatch, capsys):
    """Validated out of turn, at a step where no validation is planned; the curves have that one in addition."""
    with monkeypatch.context() as patched:
        patched.setattr("metasgd.cli.app.LastCheckpoint", StopsAfter)
        patched.setattr(LastCheckpoint, "on_train_batch_end", StopsAfter.on_train_batch_end)
        assert main(["fit", *TINY, *RARELY, *validation]) == 0
    assert "last.ckpt after 6 outer steps" in capsys.readouterr().out
    assert main(["fit", *TINY, *RARELY, "--ckpt_path", "last"]) == 0
    a, b = (read_checkpoint(there / LAST) for there in (folder, whole))
    for key, weights in b["state_dict"].items():
        assert torch.equal(a["state_dict"][key], weights)
    assert curve(folder / RUN, "train/loss") == curve(whole / RUN, "train/loss")


def test_a_finished_run_says_what_it_has(folder, capsys):
    assert main(["fit", *TINY]) == 0
    assert main(["fit", *TINY, "--ckpt_path", "last"]) == 0
    assert capsys.readouterr().out.count("last.ckpt after 8 outer steps") == 2


def test_a_run_without_a_step_says_that_nothing_is_saved(folder, capsys):
    assert main(["fit", *TINY, "--trainer.max_time", "00:00:00:00"]) == 0
    assert "no checkpoint, since no outer step was taken" in capsys.readouterr().out


def test_a_run_of_several_passes_is_saved_at_the_end_of_each(folder, capsys):
    passes = ["--trainer.max_epochs", "2", "--trainer.limit_train_batches", "3", "--trainer.max_steps", "6"]
    assert main(["fit", *TINY, *RARELY, *passes]) == 0
    assert "last.ckpt after 6 outer steps" in capsys.readouterr().out


WHERE = {
    "in a step": ("training_step", 6, 5),
    "after a validation": ("training_step", 5, 4),
    "in one": ("validation_step", 1, 4),
}


@pytest.mark.parametrize("where", WHERE)
def test_a_run_resumes_from_the_checkpoint_that_an_exception_left(where, folder, whole, monkeypatch):
    """Lightning's OnExceptionCheckpoint, in the steps after the last checkpoint of ours."""
    callback = ["--trainer.callbacks+=lightning.pytorch.callbacks.OnExceptionCheckpoint"]
    callback += ["--trainer.callbacks.dirpath", str(folder)]
    method, nth, saved = WHERE[where]
    original, calls = getattr(MetaSGDModule, method), []

    def failing(module, *arguments):
        calls.append(1)
        if len(calls) == nth:
            raise ArithmeticError("of the machine, not of the run")
        return original(module, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(MetaSGDModule, method, failing)
        with pytest.raises(ArithmeticError):
            main(["fit", *TINY, *RARELY, *callback])
    left = folder / "on_exception.ckpt"
    assert read_checkpoint(left)["global_step"] == saved
    assert main(["fit", *TINY, *RARELY, "--ckpt_path", str(left)]) == 0
    second = folder / RUN.replace("version_0", "version_1")  # this checkpoint is none of the first run's own
    for name in (LAST, BEST):
        assert_same_checkpoint(second / name.removeprefix(f"{RUN}/"), whole / name)
    for tag in ("train/loss", "val/mse"):
        assert curve(second, tag) == [point for point in curve(whole / RUN, tag) if point in curve(second, tag)]
        assert curve(second, tag)[-1] == curve(whole / RUN, tag)[-1]


def test_a_new_run_does_not_resume_from_the_checkpoint_of_an_exception_unasked(folder):
    callback = ["--trainer.callbacks+=lightning.pytorch.callbacks.OnExceptionCheckpoint"]
    callback += ["--trainer.callbacks.dirpath", str(folder)]
    assert main(["fit", *TINY]) == 0
    (folder / LAST).rename(folder / "on_exception.ckpt")
    assert main(["fit", *TINY, *callback, "--trainer.max_steps", "4"]) == 0
    assert read_checkpoint(folder / LAST.replace("version_0", "version_1"))["global_step"] == 4
    assert not (folder / "on_exception.ckpt").exists()  # a fit that ended well removes it, as Lightning's callback does
