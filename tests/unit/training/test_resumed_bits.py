"""Stopped and resumed, a run ends with the bits of one that ran through, whatever moves its weights and settings."""

from functools import partial

import pytest
import torch
from lightning import seed_everything
from lightning.pytorch.callbacks import EMAWeightAveraging, WeightAveraging
from support.runs import assert_same
from support.trainers import plain_trainer
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, CyclicLR, OneCycleLR, ReduceLROnPlateau, SequentialLR

from metasgd.data.sinusoid import Sinusoid
from metasgd.errors import UserError
from metasgd.nn.networks import MLP
from metasgd.rl import GaussianPolicy, Navigation, PolicyGradient, Trials
from metasgd.rules.gradient_descent import PerParameter
from metasgd.training.callbacks.checkpoints import LastCheckpoint
from metasgd.training.checkpoint_io import WholeCheckpointIO
from metasgd.training.datamodule import EpisodicDataModule
from metasgd.training.module import MetaSGDModule
from metasgd.training.outer import OuterProblem


def sinusoid(outer):
    data = EpisodicDataModule(Sinusoid(), n_way=1, k_shot=5, n_query=10, meta_batch_size=4, val_tasks=4)
    return MetaSGDModule(MLP(1, [8], 1), PerParameter(0.01), inner_steps=2, loss="mse", outer=outer), data


def navigation(outer, passes=1):
    data = EpisodicDataModule(Trials(), n_way=1, k_shot=2, n_query=2, meta_batch_size=2, val_tasks=2)
    loss = PolicyGradient(Navigation(horizon=3), passes=passes)
    return MetaSGDModule(GaussianPolicy(hidden=[4]), PerParameter(0.1), inner_steps=2, loss=loss, outer=outer), data


def trained(folder, steps, outer, precision=None, callbacks=(), resume=None, validations=True, of=sinusoid):
    """The last checkpoint of a run, with validations after every second outer step, and its module."""
    seed_everything(0, verbose=False)
    module, data = of(outer)
    trainer = plain_trainer(
        folder,
        steps,
        precision=precision,
        callbacks=[LastCheckpoint(), *callbacks],
        limit_val_batches=1.0 if validations else 0,
        enable_checkpointing=True,
        plugins=[WholeCheckpointIO()],
    )
    trainer.fit(module, data, ckpt_path=resume)
    return torch.load(folder / "run/version_0/checkpoints/last.ckpt", weights_only=True), module


class ScheduleFree(SGD):
    """Schedule-free SGD (Defazio et al. 2024), with ``x`` beside: trains at y, evaluates x, the mean of all z."""

    def __init__(self, params, lr=0.01, beta=0.9):
        super().__init__(params, lr)
        for group in self.param_groups:
            group.update(beta=beta, count=0, train_mode=False)

    def _show(self, train_mode):
        for group in self.param_groups:
            if group["train_mode"] != train_mode:
                group["train_mode"] = train_mode
                for p in group["params"]:
                    state = self.state[p]
                    if state:
                        # each from the other, as the package does: so it is the same up to rounding alone
                        end, weight = state["z"], 1 - (group["beta"] if train_mode else 1 / group["beta"])
                        p.data.lerp_(end, weight)

    def train(self):
        self._show(True)

    def eval(self):
        self._show(False)

    def step(self, closure=None):
        for group in self.param_groups:
            assert group["train_mode"]
            group["count"] += 1
            for p in (p for p in group["params"] if p.grad is not None):
                state = self.state[p]
                if not state:
                    state["z"], state["x"] = p.detach().clone(), p.detach().clone()
                state["z"] -= group["lr"] * p.grad
                state["x"] += (state["z"] - state["x"]) / group["count"]
                p.data.copy_((1 - group["beta"]) * state["z"] + group["beta"] * state["x"])


class OwnSettings(SGD):
    """Counts in its settings, as Prodigy does."""

    def __init__(self, params, lr=0.01):
        super().__init__(params, lr)
        for group in self.param_groups:
            group.setdefault("k", 0)

    def step(self, closure=None):
        for group in self.param_groups:
            group["k"] += 1
            group["lr"] = 0.01 / group["k"]
        super().step(closure)


def packaged(module, name, **settings):
    cls = getattr(pytest.importorskip(module), name)
    return OuterProblem(optimizer=lambda params: cls(params, **settings))


RUNS = {
    "one cycle": lambda: (OuterProblem(Adam, scheduler=lambda o: OneCycleLR(o, 0.01, total_steps=7)), {}),
    "cyclic": lambda: (OuterProblem(SGD, scheduler=lambda o: CyclicLR(o, 1e-4, 1e-2, step_size_up=2)), {}),
    "restarts": lambda: (OuterProblem(Adam, scheduler=lambda o: CosineAnnealingWarmRestarts(o, T_0=2)), {}),
    "sequence": lambda: (
        OuterProblem(
            Adam,
            scheduler=lambda o: SequentialLR(
                o, [CosineAnnealingWarmRestarts(o, 2), OneCycleLR(o, 0.01, total_steps=6)], milestones=[4]
            ),
        ),
        {},
    ),
    "plateau": lambda: (
        OuterProblem(Adam, scheduler=lambda o: ReduceLROnPlateau(o, factor=0.5, patience=0, threshold=10.0)),
        {},
    ),
    "reinforcement learning": lambda: (OuterProblem(Adam), {"of": navigation}),
    "several passes": lambda: (OuterProblem(Adam), {"of": partial(navigation, passes=3)}),
    "double precision": lambda: (OuterProblem(Adam), {"precision": "64-true"}),
    "bfloat16": lambda: (OuterProblem(Adam), {"precision": "bf16-true"}),
    "own settings": lambda: (OuterProblem(OwnSettings), {}),
    "schedule-free": lambda: (OuterProblem(ScheduleFree), {}),
    "schedule-free without validations": lambda: (OuterProblem(ScheduleFree), {"validations": False}),
    "Prodigy": lambda: (packaged("prodigyopt", "Prodigy"), {}),
    "the schedulefree package": lambda: (packaged("schedulefree", "AdamWScheduleFree", lr=0.01), {}),
    "moving average": lambda: (OuterProblem(Adam), {"averaging": lambda: EMAWeightAveraging(decay=0.5)}),
    "average": lambda: (OuterProblem(Adam), {"averaging": WeightAveraging}),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_resumed_run_has_the_bits_of_one_that_ran_through(name, tmp_path):
    outer, options = RUNS[name]()
    averaging = options.pop("averaging", None)

    def run(folder, steps, resume=None):
        callbacks = [averaging()] if averaging else []
        return trained(tmp_path / folder, steps, outer, callbacks=callbacks, resume=resume, **options)[0]

    whole = run("whole", 7)
    for stop in (3, 4):  # between validations, and after one
        run(f"{stop}", stop)
        resumed = run(f"{stop}", 7, resume=tmp_path / f"{stop}/run/version_0/checkpoints/last.ckpt")
        for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "metasgd_made_by"):
            assert_same(resumed[key], whole[key])
        assert resumed.keys() == whole.keys()
    assert whole["global_step"] == 7


def test_the_precision_is_that_of_the_weights_saved(tmp_path):
    for precision, dtype in (("64-true", torch.float64), ("bf16-true", torch.bfloat16)):
        content, _ = trained(tmp_path / precision, 2, OuterProblem(Adam), precision=precision)
        assert content["state_dict"]["network.head.weight"].dtype == dtype


def test_a_plateau_lowers_the_rate_after_validations_alone(tmp_path):
    """Nothing ever gets better by so much, so each validation halves the rate."""
    outer, _ = RUNS["plateau"]()
    content, _ = trained(tmp_path, 7, outer)
    [scheduler] = content["lr_schedulers"]
    assert scheduler["last_epoch"] == 3  # validations after 2, 4 and 6 steps
    assert [group["lr"] for group in content["optimizer_states"][0]["param_groups"]] == [0.001 / 8] * 2


def test_a_plateau_that_waits_for_what_is_not_there_is_refused(tmp_path):
    outer = OuterProblem(Adam, scheduler=lambda o: ReduceLROnPlateau(o, mode="max"))
    with pytest.raises(UserError, match="use one of val/loss with min, val/mse with min"):
        trained(tmp_path, 2, outer)


def test_what_is_validated_and_saved_are_the_weights_to_be_used(tmp_path):
    """The mean x of all z, which this optimizer holds beside; the next step is taken from y."""
    content, module = trained(tmp_path, 4, OuterProblem(ScheduleFree))
    [optimizer] = content["optimizer_states"]
    names = [n for n in content["state_dict"] if n.startswith("network.")]
    assert len(names) == 4
    for i, name in enumerate(names):
        torch.testing.assert_close(content["state_dict"][name], optimizer["state"][i]["x"])
        y = 0.1 * optimizer["state"][i]["z"] + 0.9 * optimizer["state"][i]["x"]
        torch.testing.assert_close(content["metasgd_training_weights"][name], y)
        assert not torch.equal(y, content["state_dict"][name])
        torch.testing.assert_close(module.state_dict()[name], optimizer["state"][i]["x"])


def test_how_often_a_run_validates_does_not_show_in_its_weights(tmp_path):
    with_, without = (
        trained(tmp_path / str(validations), 5, OuterProblem(ScheduleFree), validations=validations)[0]
        for validations in (True, False)
    )
    assert_same(with_["metasgd_training_weights"], without["metasgd_training_weights"])
