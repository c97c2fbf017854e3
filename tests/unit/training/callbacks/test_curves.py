from pathlib import Path

import numpy as np
import pytest
import torch
from support.figures import rendered
from support.trainers import plain_trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from metasgd.data.sinusoid import Sinusoid
from metasgd.data.task_shape import TaskShape
from metasgd.nn.networks import MLP
from metasgd.rules.gradient_descent import PerParameter
from metasgd.rules.optimizer_network import OptimizerNetwork
from metasgd.training.callbacks.curves import CountRates, ShowChoices, ShowCurves, choices_figure, curves_figure
from metasgd.training.datamodule import EpisodicDataModule
from metasgd.training.module import MetaSGDModule

NOWHERE = Path("nowhere")


def log_of(folder, rule, callbacks, eval_inner_steps=None):
    """What TensorBoard shows of four outer steps with validations after the second and the fourth."""
    trainer = plain_trainer(folder, 4, callbacks=callbacks, log_every_n_steps=2, enable_checkpointing=False)
    data = EpisodicDataModule(Sinusoid(), n_way=1, k_shot=5, n_query=10, val_tasks=17)  # the last one alone
    module = MetaSGDModule(MLP(1, [8], 1), rule, inner_steps=2, eval_inner_steps=eval_inner_steps, loss="mse")
    with rendered():
        trainer.fit(module, data)
    return EventAccumulator(str(folder / "run" / "version_0")).Reload()


def test_odd_rates_are_counted(tmp_path):
    class Odd(CountRates):
        def on_train_batch_end(self, trainer, pl_module, *args):
            rates = dict(pl_module.update_rule.learned_rates())
            with torch.no_grad():
                for rate in rates.values():
                    rate.fill_(0.01)
                rates["body.1.weight"][:2] = -1.0
                rates["head.bias"].fill_(torch.inf)
            super().on_train_batch_end(trainer, pl_module, *args)
            rates["head.bias"].data.fill_(0.01)

    log = log_of(tmp_path, PerParameter(0.01), [Odd()])
    for tag, expected in (("rates/negative_share", 2 / 25), ("rates/not_finite", 1), ("rates/moved_share", 3 / 25)):
        assert [(e.step, pytest.approx(e.value)) for e in log.Scalars(tag)] == [(1, expected), (3, expected)]


@pytest.mark.parametrize(
    ("rule", "shown", "absent"),
    [(OptimizerNetwork(0.01), {"curves", "choices"}, set()), (PerParameter(0.01), {"curves"}, {"choices"})],
)
def test_what_is_pictured_at_each_validation(rule, shown, absent, tmp_path):
    log = log_of(tmp_path, rule, [ShowCurves(), ShowChoices()])
    images = log.Tags()["images"]
    assert shown <= set(images)
    assert not absent & set(images)
    for name in shown:
        assert [e.step for e in log.Images(name)] == [1, 3]


def test_no_choices_are_pictured_where_none_are_made(tmp_path):
    log = log_of(tmp_path, OptimizerNetwork(0.01), [ShowChoices()], eval_inner_steps=0)
    assert log.Tags()["images"] == []
    assert len(log.Scalars("val/mse")) == 2


def test_curves_show_the_truth_the_support_and_every_prediction():
    tasks = Sinusoid().sampler("val", NOWHERE, NOWHERE, 0, TaskShape(1, 5, 10)).draw_whole(np.arange(3), 50)
    outputs = torch.randn(3, 2, 50, 1)
    panels = curves_figure(tasks, outputs, [0, 4]).axes
    for b, panel in enumerate(panels[:3]):
        lines = {line.get_label(): line for line in panel.get_lines()}
        np.testing.assert_array_equal(lines["truth"].get_ydata(), tasks.query_y[b, :, 0])
        np.testing.assert_array_equal(lines["support"].get_ydata(), tasks.support_y[b, :, 0])
        np.testing.assert_array_equal(lines["after 0 steps"].get_ydata(), outputs[b, 0, :, 0])
        np.testing.assert_array_equal(lines["after 4 steps"].get_ydata(), outputs[b, 1, :, 0])


def test_choices_stand_over_the_loss_that_was_read():
    losses, rate, momentum = torch.rand(6, 3) + 0.1, torch.rand(6, 3, 1), torch.rand(6, 3, 1)
    panels = choices_figure(losses, {"learning_rate": rate, "momentum": momentum}).axes
    for panel, choice in zip(panels[:2], (rate, momentum), strict=True):
        dots = panel.collections[0].get_offsets()
        np.testing.assert_allclose(dots, torch.stack([losses.flatten(), choice.flatten()], dim=1))
