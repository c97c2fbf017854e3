"""The main job through the real command line: train, stop, resume, evaluate."""

import json
import math
import re
import signal

import pytest
from support.agents import wait_for
from support.commands import run
from support.programs import Program
from support.runs import RUN, TINY, assert_same, scalars, state, succeeded


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with one complete run."""
    folder = tmp_path_factory.mktemp("trained")
    folder.joinpath("stdout").write_text(run("fit", *TINY, cwd=folder).stdout)
    return folder


def test_a_run_says_what_begins_and_how_its_validations_went(trained):
    said = (trained / "stdout").read_text()
    first, *_, last = scalars(trained / RUN, "val/mse")
    assert re.search(r"^network +MLP: body 1,720, head 41\nrule +PerParameter: 1,761 learned values", said)
    assert re.search(rf"^tasks .*\ntraining +8 outer steps; .* 20 tasks\nrun +{RUN}$", said, re.MULTILINE)
    assert re.search(rf"^step 4: val/mse {first[1]:.4f} ± \d+\.\d{{4}}, val/loss {first[1]:.4f}$", said, re.MULTILINE)
    assert re.search(rf"^step 8: val/mse {last[1]:.4f} ± ", said, re.MULTILINE)


def test_a_run_logs_its_pace_and_its_configuration(trained):
    cosine = [0.001 * (0.5 + 0.5 * math.cos(math.pi * step / 8)) for step in range(8)]
    assert scalars(trained / RUN, "outer/learning_rate") == [*enumerate(map(pytest.approx, cosine))]
    assert all(value > 0 for _, value in scalars(trained / RUN, "outer/seconds_per_step"))
    [file] = (trained / RUN).glob("events.out.tfevents.*")
    assert b"metasgd.rules.PerParameter" in file.read_bytes()


def test_a_run_has_its_folder(trained):
    run = trained / RUN
    assert {p.name for p in (run / "checkpoints").iterdir()} == {"last.ckpt", "best.ckpt"}
    assert (run / "config.yaml").is_file()
    assert [step for step, _ in scalars(run, "train/loss")] == list(range(8))
    assert [step for step, _ in scalars(run, "val/mse")] == [3, 7]
    assert len(scalars(run, "train/mse")) == 8
    assert len(scalars(run, "val/loss")) == 2


def test_the_saved_configuration_repeats_the_run(trained, metasgd, tmp_path):
    succeeded(metasgd("fit", "--config", str(trained / RUN / "config.yaml")))
    first, again = (state(root / RUN / "checkpoints" / "last.ckpt") for root in (trained, tmp_path))
    assert_same(first["state_dict"], again["state_dict"])
    assert_same(first["optimizer_states"], again["optimizer_states"])


def test_a_reloaded_checkpoint_is_evaluated_the_same_to_the_last_digit(trained, tmp_path, metasgd):
    path = str(trained / RUN / "checkpoints" / "best.ckpt")
    found = []
    for _ in range(2):
        done = succeeded(metasgd("test", *TINY, "--ckpt_path", path))
        assert "1 step" in done.stdout
        assert "5 points, 100 queries, 1 inner step" in done.stdout
        found.append(json.loads((trained / RUN / "results.json").read_text()))
    assert found[0] == found[1]
    assert found[0]["n_tasks"] == 40
    assert found[0]["protocol"]["checkpoint"] == path
    assert found[0]["protocol"]["source"] == "Sinusoid"
    assert found[0]["protocol"]["source_options"] == {}
    assert found[0]["test/mse_ci95"] > 0
    assert not (tmp_path / "runs").exists()  # the record lies with the run that was evaluated


def test_validate_gives_the_number_that_fit_logged(trained, metasgd):
    done = succeeded(metasgd("validate", *TINY, "--ckpt_path", str(trained / RUN / "checkpoints" / "last.ckpt")))
    logged = scalars(trained / RUN, "val/mse")[-1][1]
    assert re.search(rf"1 step +│ +{logged:.4f} │ +\d+\.\d{{4}} │", done.stdout)
    assert "validation: Sinusoid" in done.stdout


def test_a_new_run_starts_from_the_weights_of_another(trained, metasgd, tmp_path):
    path = trained / RUN / "checkpoints" / "last.ckpt"
    learner, still = ["--init_from", str(path)], ["--model.outer.optimizer.init_args.lr", "0"]
    tasks = ["--data.k_shot", "7"]  # weights fit any tasks of the same inputs and outputs
    succeeded(metasgd("fit", *TINY, *tasks, *learner, *still, "--trainer.max_steps", "4"))
    before, after = state(path), state(tmp_path / RUN / "checkpoints" / "last.ckpt")
    counts = [content["state_dict"].pop("outer_steps") for content in (before, after)]
    assert counts == [8, 4]
    assert_same(before["state_dict"], after["state_dict"])
    # nor do its steps move the schedule or the tasks on
    assert after["global_step"] == 4
    assert [step for step, _ in scalars(tmp_path / RUN, "train/loss")] == [0, 1, 2, 3]
    # a resumed run has weights of its own
    succeeded(metasgd("fit", *TINY, *tasks, *still, "--init_from", "gone.ckpt", "--ckpt_path", "last"))


def test_predict_runs_on_a_checkpoint(trained, metasgd):
    succeeded(metasgd("predict", *TINY, "--ckpt_path", str(trained / RUN / "checkpoints" / "last.ckpt")))


LONGER = [
    *TINY,
    *("--trainer.max_steps", "150", "--trainer.val_check_interval", "50", "--trainer.log_every_n_steps", "7"),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run of 150 outer steps that was never stopped."""
    folder = tmp_path_factory.mktemp("whole")
    run("fit", *LONGER, cwd=folder)
    return folder / RUN


@pytest.mark.parametrize(
    ("number", "workers"), [(signal.SIGTERM, "0"), (signal.SIGINT, "1"), (signal.SIGKILL, "0"), (signal.SIGKILL, "1")]
)
def test_a_stopped_run_resumes_to_the_same_bits(number, workers, tmp_path, metasgd, whole):
    """Stopped by a signal at some step, resumed with ``last``: weights, optimizer, curves and best are the same."""
    arguments = [*LONGER, "--data.num_workers", workers, "--last_checkpoint.every_n_steps", "10"]
    process = Program("fit", *arguments, cwd=tmp_path)
    resumed = tmp_path / RUN
    last = resumed / "checkpoints" / "last.ckpt"
    wait_for(last)
    process.send_signal(number)
    assert process.wait() == (-number if number == signal.SIGKILL else 128 + number)
    stopped_at = state(last)["global_step"]
    assert 0 < stopped_at < 150
    succeeded(metasgd("fit", *arguments, "--ckpt_path", "last"))
    for name in ("last", "best"):
        a, b = (state(folder / "checkpoints" / f"{name}.ckpt") for folder in (resumed, whole))
        for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step"):
            assert_same(a[key], b[key])
    for tag in ("train/loss", "val/mse", "outer/gradient_norm"):
        assert scalars(resumed, tag) == scalars(whole, tag)


def test_a_finished_run_that_is_resumed_shows_its_best_once(metasgd, tmp_path):
    """As when it is killed after its last step; and a longer one shows that of all its steps."""
    for more in ([], ["--ckpt_path", "last"], ["--ckpt_path", "last", "--trainer.max_steps", "12"]):
        succeeded(metasgd("fit", *TINY, *more))
        [(step, best)] = scalars(tmp_path / RUN, "best/mse")
        assert best == min(value for _, value in scalars(tmp_path / RUN, "val/mse"))
    assert step == 12


def test_a_run_that_ends_with_its_batches_is_saved_whole(metasgd, tmp_path):
    short = ["--trainer.limit_train_batches", "3", "--last_checkpoint.every_n_steps", "2"]
    succeeded(metasgd("fit", *TINY, *short))
    assert state(tmp_path / RUN / "checkpoints" / "last.ckpt")["global_step"] == 3


def test_a_finished_run_continues_when_made_longer(trained, tmp_path, metasgd):
    path = str(trained / RUN / "checkpoints" / "last.ckpt")
    longer = ["--trainer.max_steps", "12", "--trainer.logger.init_args.save_dir", str(tmp_path)]
    before = state(path)["global_step"]
    copied = tmp_path / "elsewhere.ckpt"
    copied.write_bytes((trained / RUN / "checkpoints" / "last.ckpt").read_bytes())
    succeeded(metasgd("fit", *TINY, *longer, "--ckpt_path", str(copied)))
    run = tmp_path / "sinusoid" / "version_0"
    assert before == 8
    assert state(run / "checkpoints" / "last.ckpt")["global_step"] == 12
    assert [step for step, _ in scalars(run, "train/loss")] == [8, 9, 10, 11]
