import math
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from metasgd.data.problems import Curve, Examples
from metasgd.meta.objectives import OBJECTIVES
from metasgd.nn.networks import MLP
from metasgd.supervised.comparison import Effort
from metasgd.supervised.suite import cost
from metasgd.supervised.suite.contenders import Contender, all_contenders
from metasgd.supervised.suite.cost import bytes_of, costs
from metasgd.supervised.suite.dog import AveragedDoG
from metasgd.supervised.suite.muon import Muon, MuonWithAdamW, orthogonalised
from metasgd.supervised.suite.running import final_loss, lower, run_suite
from metasgd.supervised.trainer import Candidate, SupervisedTrainer, Trace, scheduled

ALL = all_contenders({"learned": "scaled_network_long", "learned_loss_only": "optimizer_network_long"}, trust=False)


@pytest.fixture(scope="module")
def trainer():
    examples = Curve(points=40, held_out=20).examples(Path(), Path())
    network = lambda: nn.Sequential(MLP(1, [8], 8), nn.Unflatten(1, (8, 1, 1)), nn.BatchNorm2d(8), MLP(8, [8], 1))  # noqa: E731
    return SupervisedTrainer(network, examples, OBJECTIVES["mse"], 10, 10, 5, torch.device("cpu"))


@pytest.mark.parametrize("name", ALL)
def test_every_contender_trains(name, trainer):
    contender = ALL[name]
    if find_spec(contender.needs[0]) is None:
        pytest.skip(contender.missing())
    candidate = contender.on("curve", trainer.steps)
    trace = trainer.train(candidate, contender.lr, seed=0)
    assert candidate.name == f"{name} on curve"
    assert trace.steps == trainer.evaluated_at() == [0, 5, 10]
    assert trace.val_loss[-1] != trace.val_loss[0]
    assert math.isfinite(trace.test_loss)


def test_a_missing_package_or_part_is_named_with_what_to_do():
    absent = Contender("Free", None, 1.0, needs=("no_such_package", "Free"))
    assert absent.missing() == "Free is left out: it needs the package no_such_package (pip install 'metasgd[suite]')"
    older = Contender("Muon", None, 1.0, needs=("torch.optim", "Muon2"))
    assert older.missing() == f"Muon is left out: torch.optim {torch.__version__} has no Muon2"
    assert ALL["AdamW"].missing() is None


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="of later versions of torch")
@pytest.mark.parametrize("shape", [(8, 5), (5, 8)])
def test_muon_steps_as_torchs_but_for_its_bfloat16(shape):
    ours, theirs = (nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(0))) for _ in range(2))
    optimizers = (
        Muon([ours], lr=0.1, weight_decay=0.2),
        torch.optim.Muon([theirs], lr=0.1, weight_decay=0.2, adjust_lr_fn="match_rms_adamw"),
    )
    start = ours.detach().clone()
    for s in range(4):
        for p, optimizer in zip((ours, theirs), optimizers, strict=True):
            p.grad = torch.randn(shape, generator=torch.Generator().manual_seed(s))
            optimizer.step()
    assert (ours - theirs).norm() < 0.02 * (ours - start).norm()


def test_orthogonalised_has_the_singular_vectors_with_values_near_one():
    matrix = torch.randn(6, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    inner = u.T @ orthogonalised(matrix) @ v.T
    torch.testing.assert_close(inner, torch.diag(inner.diagonal()), rtol=0, atol=1e-12)
    assert ((inner.diagonal() > 0.6) & (inner.diagonal() < 1.3)).all()


def test_muon_steps_hidden_matrices_alone_and_a_schedule_changes_both_parts():
    torch.manual_seed(0)
    network = MLP(4, [6, 5], 3)
    start = {n: p.detach().clone() for n, p in network.named_parameters()}
    optimizer = MuonWithAdamW(network.named_parameters(), lr=0.1, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
    network(torch.randn(7, 4)).square().mean().backward()
    optimizer.step()
    schedule.step()
    for name, p in network.named_parameters():
        moved = (p.detach() - start[name]).abs()
        by_adam = moved[p.grad.abs() > 1e-6]
        # AdamW's first step is lr × sign of the gradient
        assert torch.allclose(by_adam, torch.full_like(by_adam, 0.05), rtol=0.02) == (
            name.endswith("bias") or name.startswith("head")
        ), name
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.05]


def test_dog_evaluates_the_average_of_its_weights_as_its_package_has_it():
    dog = pytest.importorskip("dog")
    torch.manual_seed(0)
    ours, theirs = nn.Linear(4, 3), nn.Linear(4, 3)
    theirs.load_state_dict(ours.state_dict())
    optimizer, of_package = AveragedDoG(ours.named_parameters(), 1.0), dog.DoG(theirs.parameters())
    averager = dog.PolynomialDecayAverager(theirs)
    optimizer.eval()  # before there is an average
    for _ in range(6):
        optimizer.train()
        x = torch.randn(8, 4)
        for network, one in ((ours, optimizer), (theirs, of_package)):
            one.zero_grad()
            (network(x) - 1).square().mean().backward()
            one.step()
        averager.step()
        assert all(torch.equal(p, q) for p, q in zip(ours.parameters(), theirs.parameters(), strict=True))
        optimizer.eval()
        optimizer.eval()
        for p, q in zip(ours.parameters(), averager.averaged_model.parameters(), strict=True):
            torch.testing.assert_close(p, q)
    assert bytes_of(optimizer) == 2 * 4 * sum(p.numel() for p in ours.parameters())


def test_warm_up_rises_over_a_twentieth_and_falls_to_zero():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = scheduled(optimizer, "warmup_cosine", 100)
    rates = []
    for _ in range(101):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[:6] == pytest.approx([2 / 6, 4 / 6, 1.0, 8 / 6, 10 / 6, 2.0])
    assert rates[-1] == pytest.approx(0, abs=1e-12)
    assert rates[5 + 95 // 2] == pytest.approx(1 + math.cos(math.pi * 47 / 95))


class Moved(torch.optim.SGD):
    """Evaluates its weights moved by 1."""

    def __init__(self, params, lr):
        super().__init__([p for _, p in params], lr=lr)
        self.eval()  # train() undoes it before the first step

    def train(self):
        self._move(-1)

    def eval(self):
        self._move(1)

    @torch.no_grad()
    def _move(self, by):
        for group in self.param_groups:
            for p in group["params"]:
                p.add_(by)


def test_weights_of_evaluation_have_statistics_of_their_own_and_are_not_trained():
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(1))
    examples = dict.fromkeys(("train", "val", "test"), Examples(x, x.sum(dim=1, keepdim=True)))
    network = lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))  # noqa: E731
    trainer = SupervisedTrainer(network, examples, OBJECTIVES["mse"], 6, 8, 3, torch.device("cpu"))
    moved = trainer.train(Candidate("x", Moved, 0.1), 0.1, seed=0)
    plain = trainer.train(Candidate("x", lambda n, lr: torch.optim.SGD(n, lr=lr), 0.1), 0.1, seed=0)
    assert moved.train_loss[1:] == pytest.approx(plain.train_loss[1:], rel=1e-4)
    made, optimizer = trainer.begin(Candidate("x", lambda n, lr: torch.optim.SGD(n, lr=lr), 0.1), 0.1, seed=0)
    for rows in trainer.batches(0):
        trainer.loss_and_gradients(made, optimizer, rows)
        optimizer.step()
    with torch.no_grad():
        for p in made.parameters():
            p.add_(1)
        made[1].reset_running_stats()
        made[1].momentum = None
        for rows in trainer.batches(0):
            made(x[rows])
    expected = nn.functional.mse_loss(made.eval()(x), x.sum(dim=1, keepdim=True))
    assert moved.test_loss == pytest.approx(expected.item(), rel=1e-4)


def test_the_memory_of_an_optimizer_is_that_of_its_tensors(trainer, monkeypatch):
    monkeypatch.setattr(cost, "STEPS", 1)
    tried = {n: (ALL[n].on("curve", 10), 0.01) for n in ("AdamW", "SGD_tuned", "learned")}
    found = costs(trainer, tried, rounds=2, reference="AdamW")
    network = trainer.network()
    n, tensors = sum(p.numel() for p in network.parameters()), len(list(network.parameters()))
    assert found["AdamW"].bytes_per_parameter == pytest.approx(8 + 4 * tensors / n)  # and a count for each tensor
    assert found["SGD_tuned"].bytes_per_parameter == 4
    assert all(own.seconds_per_step > 0 for own in found.values())
    assert (found["AdamW"].time_ratio, found["AdamW"].time_quartiles) == (1, (1, 1))


def test_what_is_no_number_is_never_lower():
    assert [lower(1, 2), lower(2, 1), lower(math.nan, 1), lower(1, math.nan)] == [True, False, False, True]
    assert final_loss(Trace(val_loss=[3.0, 2.0])) == 2.0
    assert replace(ALL["AdamW"], lr=1.0).on("x", 3).start == 1.0


@pytest.mark.parametrize(("best", "warned"), [(1e-2, False), (1.0, True)])
def test_a_best_rate_at_the_edge_is_said(best, warned, caplog):
    def train(candidate, lr, seed):
        return Trace(val_loss=[abs(math.log(lr / best))])

    workload = SimpleNamespace(name="curve", steps=10)
    effort = Effort(seeds=[1], search_seed=0, trials=3, most_trials=5)
    rows = run_suite(train, [workload], [ALL["AdamW_tuned"]], effort, lambda said: None)
    assert any("lies at the edge" in message for message in caplog.messages) == warned
    assert rows["curve"]["AdamW_tuned"].lr == pytest.approx(0.1**1.5 if warned else 0.01)
