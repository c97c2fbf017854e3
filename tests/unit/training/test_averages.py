"""Averages of the weights during training, by Lightning's callback, are what is evaluated and saved."""

import copy

import numpy as np
import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging

from metasgd.data.sinusoid import Sinusoid
from metasgd.nn import MLP, Conv4
from metasgd.rules import PerParameter
from metasgd.training.datamodule import EpisodicDataModule
from metasgd.training.module import MetaSGDModule
from metasgd.training.outer import OuterProblem


class Recorded(Callback):
    """The weights after every outer step."""

    def __init__(self):
        self.weights = []

    def on_train_batch_end(self, trainer, pl_module, *args):
        self.weights.append({n: p.detach().clone() for n, p in pl_module.named_parameters()})


def test_validation_and_the_trained_module_have_the_moving_average_of_both_parts():
    torch.manual_seed(0)
    module = MetaSGDModule(MLP(1, [8], 1), PerParameter(0.02), loss="mse")
    data = EpisodicDataModule(Sinusoid(), n_way=1, k_shot=5, n_query=10, meta_batch_size=4, val_tasks=6)
    recorded = Recorded()
    trainer = Trainer(
        max_steps=4,
        max_epochs=1,
        accelerator="cpu",
        callbacks=[recorded, EMAWeightAveraging(decay=0.7)],
        val_check_interval=4,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        inference_mode=False,
        **dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False),
    )
    trainer.fit(module, data)
    first, *later = recorded.weights
    mean = first
    for weights in later:
        mean = {n: 0.7 * mean[n] + 0.3 * p for n, p in weights.items()}
    assert {n.split(".")[0] for n in mean} == {"network", "update_rule"}
    assert any((later[-1][n] - p).abs().max() > 1e-3 for n, p in mean.items())
    for n, p in module.named_parameters():
        torch.testing.assert_close(p.detach(), mean[n], rtol=1e-5, atol=1e-7)
    losses = module.evaluate(data.samplers["val"].draw(np.arange(6)), [module.eval_inner_steps]).query_losses
    torch.testing.assert_close(trainer.logged_metrics["val/loss"], losses.mean(), rtol=1e-5, atol=0)
    assert int(module.outer_steps) == 4


class Held:
    """Makes an optimizer, and cannot be copied."""

    def __init__(self):
        self.parser = (i for i in range(3))

    def __call__(self, parameters):
        return torch.optim.SGD(parameters)


def test_a_module_can_be_copied_whatever_makes_its_optimizer_and_distributes_its_tasks():
    """As the command line's optimizer classes, which hold their parser; the average of weights is of a copy."""
    outer = OuterProblem(Held())
    module = MetaSGDModule(Conv4(width=2, image_size=8), PerParameter(0.1), outer=outer, engine="threads")
    copied = copy.deepcopy(module)
    assert copied.outer is outer
    assert copied.unroll.engine is module.unroll.engine
    assert copied.network.head.weight is not module.network.head.weight
