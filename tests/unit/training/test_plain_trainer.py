"""A training from Python, with Lightning's own Trainer and nothing of the command line."""

import numpy as np
import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.tuner import Tuner
from support.runs import assert_same
from torch import nn
from torch.utils.data import DistributedSampler

import metasgd
from metasgd import MLP, EpisodicDataModule, MetaSGDModule, PerParameter
from metasgd.cli.adapt_learner import load_source
from metasgd.data import Sinusoid
from metasgd.errors import UserError
from metasgd.runs.rules import load_rule
from metasgd.training.outer import OuterProblem

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*pre-optimization state:UserWarning"),  # a checkpoint is of the weights after
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* is not empty:UserWarning"),  # a run that resumes
]


def by_hand():
    return nn.Sequential(nn.Linear(1, 6), nn.Tanh(), nn.Linear(6, 1))


def module_of(network=None, rule=None):
    torch.manual_seed(3)
    outer = OuterProblem(lambda groups: torch.optim.Adam(groups, lr=0.01))
    network, rule = network or MLP(1, [8], 1), rule or PerParameter(0.02)
    return MetaSGDModule(network, rule, inner_steps=2, loss="mse", outer=outer)


def data_of():
    return EpisodicDataModule(
        Sinusoid(), n_way=1, k_shot=5, n_query=5, meta_batch_size=4, val_tasks=4, test_tasks=6, seed=5
    )


def trainer_of(folder, max_steps=4, **options):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    options = {
        "log_every_n_steps": 1,
        "callbacks": [ModelCheckpoint(folder, "{step}", every_n_train_steps=3)],
        **options,
    }
    return Trainer(max_steps=max_steps, accelerator="cpu", logger=False, **quiet, **options)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A module as its training left it, and the checkpoint of its 6 steps; one of 3 lies beside."""
    folder = tmp_path_factory.mktemp("plain")
    trainer, module = trainer_of(folder, 6), module_of()
    trainer.callbacks[-1].save_top_k = -1
    trainer.fit(module, data_of())
    return module, folder / "step=6.ckpt"


def test_its_checkpoint_is_a_learner(trained):
    module, path = trained
    learner = metasgd.load(path)
    assert_same(dict(learner.model.state_dict()), dict(module.state_dict()))
    assert (learner.model.inner_steps, learner.config["data"]["seed"], int(learner.model.outer_steps)) == (2, 5, 6)
    x = torch.linspace(-1, 1, 5)[:, None]
    own = metasgd.MetaLearner(module, {}).adapt(x, x.sin())
    np.testing.assert_array_equal(learner.adapt(x, x.sin()).predict(x), own.predict(x))
    assert load_source(learner.config) is None  # curves have no classes
    assert_same(dict(load_rule(path).state_dict()), dict(module.update_rule.state_dict()))


def test_it_is_tested_and_resumed_from_there(trained, tmp_path):
    module, path = trained
    resumed = module_of()
    trainer = trainer_of(path.parent, 6)
    trainer.fit(resumed, data_of(), ckpt_path=path.with_name("step=3.ckpt"))
    assert_same(dict(resumed.state_dict()), dict(module.state_dict()))
    [found] = trainer_of(path.parent).test(module_of(), data_of(), ckpt_path=path, verbose=False)
    [own] = trainer_of(tmp_path, inference_mode=False).test(module, data_of(), verbose=False)
    assert found == own


@pytest.mark.parametrize("part", ["network", "update_rule"])
def test_what_a_script_made_is_passed_to_load(part, tmp_path):
    class Halving(PerParameter):
        """A rule of a function, which nothing can import."""

    parts = {"network": by_hand, "update_rule": lambda: Halving(0.02)}
    module = module_of(by_hand() if part == "network" else None, Halving(0.02) if part == "update_rule" else None)
    trainer_of(tmp_path, 3).fit(module, data_of())
    with pytest.raises(UserError, match=f"does not say how its {part} was made: .* metasgd.load\\(path, {part}="):
        metasgd.load(tmp_path / "step=3.ckpt")
    learner = metasgd.load(tmp_path / "step=3.ckpt", **{part: parts[part]()})
    assert_same(dict(learner.model.state_dict()), dict(module.state_dict()))
    if part == "update_rule":
        with pytest.raises(UserError, match="does not say how its update_rule was made"):
            load_rule(tmp_path / "step=3.ckpt")


def test_averages_of_weights_count_their_outer_steps(tmp_path):
    module = module_of()
    save = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=3)
    trainer_of(tmp_path, 3, callbacks=[save, EMAWeightAveraging()]).fit(module, data_of())
    assert int(metasgd.load(tmp_path / "step=3.ckpt").model.outer_steps) == int(module.outer_steps) == 3


def test_tasks_are_dealt_over_processes_once(tmp_path):
    trainer, data = trainer_of(tmp_path), data_of()
    data.trainer = trainer
    data.setup("fit")
    assert isinstance(data.train_dataloader().sampler, DistributedSampler)  # by which Lightning knows


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_steps": -1, "max_epochs": 1}, "the Trainer's max_steps is -1"),
        ({"overfit_batches": 1}, "the Trainer's overfit_batches is 1"),
        ({"precision": "16-true"}, "the Trainer's precision is 16-true"),
    ],
)
def test_what_meta_training_cannot_do_is_refused(options, said, tmp_path):
    with pytest.raises(UserError, match=said):
        trainer_of(tmp_path, **options).fit(module_of(), data_of())


def test_a_range_test_of_the_outer_rate_is_refused(tmp_path):
    with pytest.raises(UserError, match="LearningRateFinder, but .* Compare short runs"):
        Tuner(trainer_of(tmp_path)).lr_find(module_of(), data_of())
