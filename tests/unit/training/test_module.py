import math
import re

import pytest
import torch
from lightning import Trainer
from support.noise import Noise
from support.poisoned import Poisoned
from torch import nn

from metasgd.data.sinusoid import Sinusoid
from metasgd.errors import UserError
from metasgd.nn.networks import MLP, Conv4
from metasgd.rules.gradient_descent import PerParameter, Scalar
from metasgd.rules.optimizer_network import OptimizerNetwork
from metasgd.training.callbacks.checkpoints import LastCheckpoint
from metasgd.training.datamodule import EpisodicDataModule
from metasgd.training.module import MetaSGDModule
from metasgd.training.outer import OuterProblem


def module_of(rule=None, network=None, **options):
    torch.manual_seed(0)
    return MetaSGDModule(network or MLP(1, [8], 1), rule or PerParameter(0.02), loss="mse", **options)


def data_of(**options):
    return EpisodicDataModule(
        Sinusoid(), n_way=1, k_shot=5, n_query=10, **{"val_tasks": 20, "test_tasks": 30} | options
    )


def trainer_of(max_steps=4, **options):
    quiet = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary", "inference_mode"), False
    )
    options = {"check_val_every_n_epoch": None, "val_check_interval": max_steps, "limit_val_batches": 2, **options}
    return Trainer(
        max_steps=max_steps,
        max_epochs=1,
        accelerator="cpu",
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        use_distributed_sampler=False,
        **quiet | options,
    )


def weights(module):
    return {n: p.detach().clone() for n, p in module.named_parameters()}


def changed(before, after):
    return {n for n in before if not torch.equal(before[n], after[n])}


@pytest.mark.parametrize("rule", [PerParameter(0.02), Scalar(0.02), OptimizerNetwork(0.02, 0.1)])
def test_training_moves_everything_that_learns(rule):
    module = module_of(rule, inner_steps=2)
    before = weights(module)
    trainer_of().fit(module, data_of())
    after = weights(module)
    # a hidden unit that is off for all inputs is possible, a tensor that never moves is not
    assert changed(before, after) == set(before)
    assert int(module.outer_steps) == 4


def test_training_lowers_the_loss_of_validation():
    module, data = module_of(outer=OuterProblem(lambda ps: torch.optim.Adam(ps, lr=1e-2))), data_of(val_tasks=300)
    trainer = trainer_of(300, limit_val_batches=None)
    before = trainer.validate(module, data, verbose=False)[0]["val/mse"]
    trainer.fit(module, data)
    assert trainer.validate(module, data, verbose=False)[0]["val/mse"] < 0.8 * before


def test_a_golden_run_stays_as_it_is():
    """Refactoring does not change what is learned: the same seed, the same losses."""
    module = module_of(inner_steps=2)
    losses = []
    step = module.training_step
    module.training_step = lambda batch, batch_idx: (
        losses.append(module.meta_gradient(batch).query_losses.mean().item()),
        step(batch, batch_idx),
    )[1]
    trainer_of().fit(module, data_of())
    assert losses == pytest.approx(GOLDEN, rel=1e-4)


GOLDEN = [3.8743844032287598, 3.5373148918151855, 4.188393592834473, 2.618543863296509]


def test_frozen_layers_learn_nothing_and_adapt_all_the_same():
    module = module_of(Scalar(0.02), outer=OuterProblem(freeze_network=["body.*"]))
    before = weights(module)
    trainer_of().fit(module, data_of())
    assert changed(before, weights(module)) == {"update_rule.eta", "network.head.weight", "network.head.bias"}
    assert module.config.adapted == {n for n, _ in module.network.named_parameters()}
    with pytest.raises(UserError, match=r"freeze_network has 'tail\.\*', which fits no parameter of MLP.*head.weight"):
        module_of(outer=OuterProblem(freeze_network=["tail.*"]))


def test_a_frozen_network_leaves_only_the_rule_to_learn():
    module = module_of(Scalar(0.02), outer=OuterProblem(freeze_network=True))
    before = weights(module)
    trainer_of().fit(module, data_of())
    assert changed(before, weights(module)) == {"update_rule.eta"}


@pytest.mark.parametrize(("steps", "expected"), [(2, "network."), (4, "network. update_rule.")])
def test_alternation_leaves_the_other_side_untouched(steps, expected):
    module = module_of(outer=OuterProblem(alternate=2))
    before = weights(module)
    trainer_of(steps).fit(module, data_of())
    prefixes = {n.split(".")[0] + "." for n in changed(before, weights(module))}
    assert prefixes == set(expected.split())


def test_bounds_hold_after_every_outer_step():
    rule = PerParameter(0.02, bounds=(0.015, 0.025))
    trainer_of(20).fit(module_of(rule, outer=OuterProblem(lambda ps: torch.optim.Adam(ps, lr=0.1))), data_of())
    rates = torch.cat([rate.detach().flatten() for rate in rule.learned_rates().values()])
    assert rates.min() >= 0.015
    assert rates.max() == pytest.approx(0.025)  # steps of 0.1 would have left it far behind


def test_first_order_until_a_step_is_first_order_until_then():
    runs = {}
    for name, options in {
        "exact": {},
        "first": {"first_order": True},
        "until 2": {"outer": OuterProblem(first_order_until=2)},
        "until 9": {"outer": OuterProblem(first_order_until=9)},
    }.items():
        module = module_of(**options)
        trainer_of(4).fit(module, data_of())
        runs[name] = torch.cat([p.flatten() for p in weights(module).values()])
    assert torch.equal(runs["until 9"], runs["first"])
    assert not torch.equal(runs["until 2"], runs["first"])
    assert not torch.equal(runs["until 2"], runs["exact"])


def test_before_zero_steps_until_the_network_trains_alone_and_the_rule_waits():
    def trained(steps, **options):
        torch.manual_seed(0)
        network = Conv4(in_channels=1, image_size=12, width=4, head="prototype")
        adam = lambda groups: torch.optim.Adam(groups, lr=1e-2, eps=1e-30)  # noqa: E731
        outer = OuterProblem(adam, **options.pop("outer", {}))
        module = MetaSGDModule(network, PerParameter(0.02), outer=outer, **options)
        trainer_of(steps).fit(module, EpisodicDataModule(Noise(1, 12, 6), n_way=3, n_query=2, meta_batch_size=2))
        return weights(module)

    # outputs without an inner step know the product of scale and temperature alone: the scale waits as well
    prototypes, waited = trained(1, inner_steps=0), trained(1, outer={"zero_steps_until": 1})
    assert changed(prototypes, waited) == {"network.head.log_scale"}
    waited = trained(2, outer={"zero_steps_until": 2})
    features = waited["network.head.weight"].shape[1]
    assert waited["network.head.log_scale"] == pytest.approx(math.log(2 / features), abs=1e-6)
    learned = trained(3, outer={"zero_steps_until": 2})
    rates = {n for n in changed(waited, learned) if n.startswith("update_rule.")}
    # a bias before BatchNorm changes no output, so that nothing is to be learned about its rate
    assert rates == {n for n in waited if n.startswith("update_rule.") and not n.endswith("/0/bias")}
    # Adam's first step is its learning rate long, as it would not be if it had counted two steps without a gradient
    for n in rates:
        moved = (learned[n] - waited[n]).abs()
        assert moved.max() == pytest.approx(1e-2, rel=0.2), n
    with pytest.raises(UserError, match=r"zero_steps_until is 2, but.*head prototype"):
        module_of(outer=OuterProblem(zero_steps_until=2))


@pytest.mark.parametrize("method", ["validate", "test"])
def test_evaluation_adapts_and_leaves_no_trace(method):
    module, data = module_of(inner_steps=1, eval_inner_steps=3), data_of()
    before = weights(module)
    run = getattr(trainer_of(), method)
    first, second = (run(module, data, verbose=False)[0] for _ in range(2))
    assert first == second
    assert changed(before, weights(module)) == set()
    assert all(p.grad is None for p in module.parameters())
    if method == "test":
        result = module.test_result()
        assert len(result.by_task) == 30
        assert len(result.loss) == 4
        assert len(set(result.loss)) == 4


def test_prediction_gives_outputs_for_every_query():
    outputs = trainer_of().predict(module_of(), data_of())
    assert torch.cat(outputs).shape == (30, 10, 1)


def test_inference_mode_does_not_matter():
    [[found], [usual]] = (
        trainer_of(inference_mode=mode).validate(module_of(), data_of(), verbose=False) for mode in (True, False)
    )
    assert found == usual


def fit_poisoned(steps, max_steps=8, ckpt_path=None, poison=(), keep=None, **outer):
    adam = OuterProblem(lambda groups: torch.optim.Adam(groups, lr=1e-2), **outer)
    torch.manual_seed(0)
    module = MetaSGDModule(MLP(1, [8], 1), PerParameter(0.02), loss="mse", outer=adam)
    source = Poisoned([2 * step + 1 for step in steps], *poison)
    data = EpisodicDataModule(source, n_way=1, k_shot=5, n_query=10, meta_batch_size=2)
    trainer = trainer_of(max_steps, val_check_interval=max_steps, **keep or {})
    trainer.fit(module, data, ckpt_path=ckpt_path, weights_only=True)
    return module, trainer


@pytest.mark.parametrize("poison", [("query_y",), ("support_y",), ("query_x",), ("query_y", 1e30)])
def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(poison):
    """Until the bad step as without it; after it, as if no such step had been in between."""
    good, _ = fit_poisoned([], max_steps=3)
    module, trainer = fit_poisoned([3], max_steps=4, poison=poison)
    assert changed(weights(good), weights(module)) == set()
    assert module.skipped.total == 1
    assert trainer.logged_metrics["outer/skipped_steps"] == 1
    assert int(module.outer_steps) == 3
    assert trainer.global_step == 4  # so that a run has as many steps as it was given, whatever they brought
    module, _ = fit_poisoned([3, 4, 6], max_steps=8, poison=poison)
    assert (module.skipped.total, module.skipped.in_a_row) == (3, 0)
    assert all(p.isfinite().all() for p in module.parameters())


def test_after_too_many_in_a_row_the_run_stops_with_step_tasks_and_rates():
    with pytest.raises(
        UserError, match=r"not finite 3 times in a row.*last at outer step 5 on the tasks 10 to 11"
    ) as it:
        fit_poisoned([1, 3, 4, 5], max_skipped_steps=3)
    assert "the loss of the tasks [11]" in str(it.value)
    assert re.search(r"with rates from 0\.0\d* to 0\.0\d*", str(it.value))


def test_skipped_steps_are_counted_on_where_a_run_resumes(tmp_path):
    keep = {"callbacks": [LastCheckpoint()], "default_root_dir": tmp_path, "enable_checkpointing": True}
    fit_poisoned([1, 2], max_steps=3, keep=keep)
    path = tmp_path / "checkpoints" / "last.ckpt"
    with pytest.raises(UserError, match=r"3 times in a row.*last at outer step 3"):
        fit_poisoned([1, 2, 3], ckpt_path=path, max_skipped_steps=3)
    module, _ = fit_poisoned([1, 2, 5], ckpt_path=path, max_skipped_steps=3)
    assert (module.skipped.total, module.skipped.in_a_row) == (3, 0)


def test_images_reach_the_network_as_numbers_from_0_to_1():
    module = MetaSGDModule(Conv4(width=2, image_size=4), Scalar())
    from metasgd.episode import Episode

    images = torch.tensor([0, 51, 255, 102], dtype=torch.uint8).repeat(4).reshape(1, 1, 1, 4, 4).repeat(1, 2, 1, 1, 1)
    labels = torch.arange(2)[None]
    inputs = module.as_inputs(Episode(images, labels, images, labels, torch.zeros(1, 2), torch.zeros(1)))
    assert inputs.query_x[0, 0, 0, 0].tolist() == pytest.approx([0, 0.2, 1, 0.4])


@pytest.mark.parametrize("inner_steps", [1, 2])
def test_of_a_class_agnostic_head_moves_what_makes_a_difference(inner_steps):
    torch.manual_seed(0)
    module = MetaSGDModule(Conv4(width=3, image_size=12), PerParameter(0.1), inner_steps=inner_steps)
    before = weights(module)
    trainer_of().fit(module, EpisodicDataModule(Noise(1, 12, 6), n_way=3, n_query=2, meta_batch_size=2, val_tasks=4))
    still = set(before) - changed(before, weights(module))
    of_network = {n for n in still if n.startswith("network.")}
    # what all classes have in common; and what BatchNorm takes away, to the bit in closed form
    no_gradient = {f"network.body.{i}.0.bias" for i in range(4)}
    assert of_network == {"network.head.weight", "network.head.bias"} | no_gradient
    below = {n for n in before if n.startswith("update_rule.alpha.body/") and not n.endswith("/0/bias")}
    assert (below <= still) == (inner_steps == 1)  # no rate of the body has had a gradient to go with


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"inner_steps": 0, "eval_inner_steps": -1}, "inner_steps is 0.*\n.*eval_inner_steps is -1"),
        ({"adapts": "nothing"}, "adapts has 'nothing'"),
        ({"network": Conv4(width=2), "adapts": "body"}, "model.adapts is body, .* same output.*head linear"),
        (
            {
                "network": Conv4(width=2),
                "segments": 2,
                "transductive": False,
                "outer": OuterProblem(freeze_network=True),
            },
            "segments is 2 and transductive is false",
        ),
    ],
)
def test_unusable_options_are_refused(options, said):
    with pytest.raises(UserError, match=said):
        module_of(**options)


def test_running_statistics_of_no_batch_are_refused_at_the_first_batch():
    module = module_of(network=nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)))
    with pytest.raises(UserError, match=r"statistics that no batch has entered.*: BatchNorm1d \(1\)"):
        trainer_of().fit(module, data_of())


class Recurrent(nn.Module):
    def __init__(self, dropout=0.0):
        super().__init__()
        self.rnn = nn.GRU(1, 4, num_layers=2, dropout=dropout, batch_first=True)
        self.head = nn.Linear(4, 1)

    def forward(self, x):
        return self.head(self.rnn(x[:, None].expand(-1, 3, -1))[0][:, -1])


def test_a_network_of_chance_that_only_a_loop_can_run_is_trained_as_one_without_chance(monkeypatch):
    said = []
    monkeypatch.setattr("metasgd.training.module.rank_zero_info", said.append)
    modules = []
    for dropout, engine in ((0.5, "auto"), (0.0, "loop")):
        torch.manual_seed(0)
        modules.append(module_of(network=Recurrent(dropout), engine=engine))
        trainer_of().fit(modules[-1], data_of())
    module, plain = modules
    assert changed(weights(plain), weights(module)) == set()
    assert said.count("switched off while adapting, being random: GRU (rnn)") == 1
    assert sum(line.startswith("engine: loop in place of vmap, which cannot run Recurrent (") for line in said) == 1
    assert module.network.rnn.training


class HalfFrozen(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(1, 8), nn.ReLU(), nn.Linear(8, 1))
        self[0].requires_grad_(False)


def test_what_the_network_has_frozen_neither_adapts_nor_learns():
    module = module_of(network=HalfFrozen())
    assert set(module.update_rule.learned_rates()) == {"2.weight", "2.bias"}
    before = weights(module)
    trainer_of().fit(module, data_of())
    assert not {n for n in changed(before, weights(module)) if n.startswith("network.0")}
    assert {"network.2.weight", "network.2.bias"} <= changed(before, weights(module))


def test_a_network_that_the_outer_step_leaves_alone_still_adapts_and_can_be_used_again():
    module = module_of(Scalar(0.02), outer=OuterProblem(freeze_network=True))
    again = MetaSGDModule(module.network, Scalar(0.02), loss="mse")
    assert again.config.adapted == module.config.adapted == set(dict(module.network.named_parameters()))
    trainer_of().fit(module, data_of())
    assert all(p.requires_grad and p.grad is None for p in module.network.parameters())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"adapts": "0.*"}, r"adapts has '0\.\*', which fits no parameter of HalfFrozen that is not frozen"),
        ({"network": nn.Linear(1, 1).requires_grad_(False)}, "Linear has no parameter that can adapt: all are frozen"),
    ],
)
def test_to_adapt_what_is_frozen_is_refused(options, said):
    with pytest.raises(UserError, match=said):
        module_of(**{"network": HalfFrozen()} | options)


class TwoNames(nn.Module):
    """One layer under two names."""

    def __init__(self):
        super().__init__()
        self.first, self.mid, self.head = nn.Linear(1, 4), nn.Linear(4, 4), nn.Linear(4, 1)
        self.again = self.mid

    def forward(self, x):
        return self.head(self.again(self.mid(self.first(x).tanh()).tanh()))


def test_a_layer_under_two_names_has_the_weights_of_the_outer_steps_after_validation():
    module = module_of(network=TwoNames(), outer=OuterProblem(freeze_network=True))
    before = {n: t.clone() for n, t in module.network.state_dict().items()}
    trainer_of().fit(module, data_of())
    assert all(torch.equal(t, before[n]) for n, t in module.network.state_dict().items())
