"""Reinforcement learning by the commands, in this process."""

import json
from pathlib import Path

import pytest
from support.runs import ROOT, scalars
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from metasgd.cli.app import MetaSGDCLI
from metasgd.cli.report import report
from metasgd.errors import UserError
from metasgd.learner.load import load
from metasgd.rl.trials import Trials

CONFIG = str(ROOT / "configs" / "navigation.yaml")
RUN = Path("runs/navigation/version_0")
SMALL = [
    *("--config", CONFIG, "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"),
    *("--model.network.init_args.hidden", "[4]", "--model.loss.init_args.environment.init_args.horizon", "4"),
    *("--data.k_shot", "2", "--data.n_query", "3", "--data.meta_batch_size", "2"),
    *("--data.val_tasks", "3", "--data.test_tasks", "3"),
]


STEPS = ["--trainer.max_steps", "2", "--trainer.val_check_interval", "2", "--trainer.log_every_n_steps", "1"]


def test_a_run_is_trained_tested_loaded_and_reported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    MetaSGDCLI(["fit", *SMALL, *STEPS])
    assert [step for step, _ in scalars(RUN, "val/return")] == [1]
    assert "trajectories" in EventAccumulator(str(RUN), size_guidance={"images": 0}).Reload().Tags()["images"]
    MetaSGDCLI(["test", *SMALL, "--ckpt_path", "best", "--model.eval_inner_steps", "2"])
    found = json.loads((RUN / "results.json").read_text())
    assert found["test/return"] == -found["test/loss"]
    assert len(found["by_inner_step"]["metric"]) == 3
    assert found["protocol"]["source"] == "Navigation"
    assert found["protocol"]["in_words"] == "2 trajectories a step, 3 evaluated, 2 inner steps, adapts all"
    assert (RUN / "tasks.csv").read_text().startswith("task,return\n0,-")
    report(str(RUN), tasks=3)
    assert "before adaptation" in (RUN / "report.html").read_text()

    learner = load(RUN / "checkpoints" / "best.ckpt")
    tasks = Trials.draw(seed=0, split="test", indices=[0, 1, 2], trajectories=3)
    by_hand = learner.model.evaluate(tasks, after=[0]).query_losses
    assert by_hand.shape == (3, 1)
    with pytest.raises(UserError, match="adapts by trajectories of its own and not by examples"):
        learner.adapt([[0.0, 0.0]], [0.0])
    with pytest.raises(UserError, match="predict writes what is predicted of each query"):
        MetaSGDCLI(["predict", *SMALL, "--ckpt_path", "best"])


ENVIRONMENT = "--model.loss.init_args.environment"
REFUSED = [
    ([ENVIRONMENT, "metasgd.rl.GymnasiumTasks", f"{ENVIRONMENT}.init_args.name", "CartPole-v1"], "Discrete"),
    (["--model.loss.init_args.clip", "2"], "model.loss.init_args.clip is 2.0: a number above 0 and below 1"),
    (
        ["--model.loss.init_args.passes", "3", "--model.outer.multi_step_until", "5"],
        "passes is 3, but the trajectories are of the last inner step",
    ),
]


@pytest.mark.parametrize(("given", "said"), REFUSED, ids=["discrete actions", "clip", "multi-step loss"])
def test_what_a_class_of_the_loss_refuses_is_said_in_one_message(given, said, tmp_path, monkeypatch):
    pytest.importorskip("gymnasium")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=said) as found:
        MetaSGDCLI(["fit", *SMALL, *given])
    assert len(found.value.problems) == 1
    assert not list(tmp_path.iterdir())
