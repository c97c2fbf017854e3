import ast
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning import seed_everything
from support.runs import ROOT, assert_same
from support.trainers import plain_trainer
from torch import nn

from metasgd.data.rng import task_stream
from metasgd.data.task_shape import TaskShape
from metasgd.errors import UserError
from metasgd.meta.evolved_unroll import EvolvedUnroll
from metasgd.meta.inner_loop import InnerLoopConfig
from metasgd.meta.paired_runs import Variety, new_pair
from metasgd.meta.persistent_evolution import PersistentEvolution
from metasgd.nn.networks import MLP
from metasgd.nn.several import OneOfSeveral
from metasgd.rules.scheduled_adam import ScheduledAdam
from metasgd.supervised.small_problems import RelativeLoss, SmallNetworks, SmallProblems
from metasgd.supervised.small_problems.objective import constant_loss, mixed_loss, relative_loss
from metasgd.supervised.small_problems.source import problem
from metasgd.training.callbacks.checkpoints import LastCheckpoint
from metasgd.training.checkpoint_io import WholeCheckpointIO
from metasgd.training.datamodule import EpisodicDataModule
from metasgd.training.module import MetaSGDModule
from metasgd.training.outer import OuterProblem

SHAPE = TaskShape(n_way=1, k_shot=24, n_query=16)


def drawn(indices, split="train"):
    return SmallProblems().sampler(split, Path(), Path(), 0, SHAPE).draw(np.array(indices))


def test_meta_training_knows_nothing_of_the_suite():
    """What is reported is of problems that nothing was learned or chosen by."""
    folder = ROOT / "src/metasgd/supervised/small_problems"
    files = sorted(folder.glob("*.py"))
    assert len(files) > 3
    others = ("nn/several.py", "meta/persistent_evolution.py", "meta/evolved_unroll.py")
    for file in (*files, *(ROOT / "src/metasgd" / other for other in others)):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if "suite" in name or "glyphs" in name]
    assert "suite" not in (ROOT / "configs/learned_optimizer.yaml").read_text()


def test_a_problem_is_a_function_of_its_number_and_its_split():
    together, alone = drawn([3, 4]), drawn([4])
    for field, other in zip(together, alone, strict=True):
        assert torch.equal(field[1:], other)
    assert not torch.equal(drawn([4], "val").support_x, alone.support_x)


def test_all_kinds_of_problems_come_with_targets_of_their_kind():
    seen = set()
    for i in range(30):
        x, y = problem(task_stream(0, "train", i), 50)
        n = int(y[0, 0])
        assert x.shape == (50, 64)
        assert (y[:, 1 + abs(n) :] == 0).all()
        if n > 0:
            assert (y[:, 1:].sum(axis=1) == 1).all()
            assert set(np.unique(y[:, 1:])) == {0, 1}
        seen.add("classes" if n > 0 else "picture" if n == -16 else "numbers")
        if n == -16:
            expected = x.reshape(50, 4, 2, 4, 2).mean(axis=(2, 4)).reshape(50, 16)
            np.testing.assert_allclose(y[:, 1:], expected)
    assert seen == {"classes", "picture", "numbers"}


def test_the_loss_is_that_of_torch_on_the_outputs_that_count():
    torch.manual_seed(0)
    outputs, classes = torch.randn(9, 17), torch.arange(9) % 3
    y = torch.zeros(9, 17)
    y[:, 0], y[torch.arange(9), 1 + classes] = 3, 1
    torch.testing.assert_close(mixed_loss(outputs, y), F.cross_entropy(outputs[:, 1:4], classes))
    torch.testing.assert_close(constant_loss(y), torch.tensor(math.log(3)))
    numbers = 50 + 20 * torch.randn(9, 2)
    y = torch.cat([torch.full((9, 1), -2.0), numbers, torch.zeros(9, 14)], dim=1)
    torch.testing.assert_close(mixed_loss(outputs, y), F.mse_loss(outputs[:, 1:3], numbers))
    torch.testing.assert_close(constant_loss(y), numbers.var(dim=0, correction=0).mean())


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e30])
def test_a_diverged_answer_counts_as_a_bad_one(bad):
    y = next(y for y in drawn(range(9)).query_y if -16 < y[0, 0] < 0)
    assert relative_loss(torch.full((len(y), 17), bad), y).item() == pytest.approx(math.log(10.01))


@pytest.mark.parametrize("sizes", ["small", pytest.param("all", marks=pytest.mark.slow)])
def test_every_network_steps_in_a_stack(sizes):
    networks = SmallNetworks(sizes)
    config = config_of(networks)
    unroll = EvolvedUnroll(4, PersistentEvolution())
    assert unroll.adjust(config, drawn([0]), first_order=False) is None


def config_of(network, steps=8):
    rule = ScheduledAdam(hidden=3)
    rule.bind(dict(network.named_parameters()), steps)
    return InnerLoopConfig(
        network, rule, mixed_loss, frozenset(n for n, _ in network.named_parameters()), query_loss=relative_loss
    )


def test_several_networks_are_each_as_if_it_were_alone():
    members = [MLP(64, [5], 17), nn.Linear(64, 17)]
    several, tasks = config_of(OneOfSeveral(members)), drawn([0, 1, 2, 3])
    unroll = EvolvedUnroll(3, PersistentEvolution(0.05))
    alone = [EvolvedUnroll(3, PersistentEvolution(0.05)) for _ in members]
    for _ in range(2):
        found = unroll.meta_gradient(several, tasks, 2, first_order=False)
        total = {n: torch.zeros_like(g) for n, g in found.phi.items()}
        for m, member in enumerate(members):
            config = config_of(member)
            config.rule.load_state_dict(several.rule.state_dict())
            own = type(tasks)(*(field[m::2] for field in tasks))
            part = alone[m].meta_gradient(config, own, 2, first_order=False)
            torch.testing.assert_close(found.query_losses[m::2], part.query_losses)
            total = {n: t + part.phi[n] for n, t in total.items()}
        torch.testing.assert_close(found.phi, total, rtol=1e-4, atol=1e-3)
    assert found.query_losses.shape == (4,)


def test_runs_have_lengths_from_the_shortest_to_the_longest_and_are_followed_by_others():
    config = config_of(nn.Linear(64, 17), steps=100)
    lengths = [new_pair(config, 1, i, 5, Variety(shortest=10)).total_steps for i in range(80)]
    assert min(lengths) == 10
    assert max(lengths) > 70
    assert all(length % 5 == 0 for length in lengths)
    assert np.median(lengths) == pytest.approx(math.sqrt(10 * 100), rel=0.3)
    unroll = EvolvedUnroll(3, PersistentEvolution(shortest_run=10))
    tasks = drawn([lengths.index(10)])
    for _ in range(3):
        unroll.meta_gradient(config, tasks, 5, first_order=False)
    assert (unroll.pairs[0].repeat, unroll.pairs[0].step) == (1, 5)
    assert config.rule.total_steps == 100


def test_a_reparameterised_network_computes_the_same_at_first():
    config = config_of(MLP(64, [5], 17))
    plain, other = (new_pair(config, 1, 0, 2, Variety(reparameterise=sd)) for sd in (0.0, 0.5))
    for n, p in plain.params.items():
        factor = other.scales[n].reshape(2, *[1] * (p.ndim - 1))
        torch.testing.assert_close(other.params[n] * factor, p)
    assert len({t[0].item() for t in other.scales.values()}) == len(other.scales)


def trained(folder, steps, resume=None):
    seed_everything(0, verbose=False)
    outer = OuterProblem(freeze_network=True, gradient_clip_norm=1.0)
    estimator = PersistentEvolution(0.05, shortest_run=2, reparameterise=0.2)
    network = OneOfSeveral([MLP(64, [5], 17), nn.Linear(64, 17)])
    module = MetaSGDModule(
        network,
        ScheduledAdam(hidden=3),
        2,
        segments=3,
        minibatch_shots=4,
        loss=RelativeLoss(),
        outer=outer,
        estimator=estimator,
        eval_inner_steps=2,
    )
    data = EpisodicDataModule(
        SmallProblems(), n_way=1, k_shot=24, n_query=8, meta_batch_size=4, val_tasks=2, outer_steps_per_task=3
    )
    trainer = plain_trainer(folder, steps, callbacks=[LastCheckpoint()], plugins=[WholeCheckpointIO()])
    trainer.fit(module, data, ckpt_path=resume)
    return torch.load(folder / "run/version_0/checkpoints/last.ckpt", weights_only=True)


@pytest.mark.slow
def test_a_run_stopped_in_the_middle_of_its_runs_resumes_to_the_bit(tmp_path):
    straight = trained(tmp_path / "straight", 5)
    half = trained(tmp_path / "half", 2)
    resumed = trained(tmp_path / "half", 5, resume=tmp_path / "half/run/version_0/checkpoints/last.ckpt")
    assert_same(straight["state_dict"], resumed["state_dict"])
    assert_same(straight["metasgd_long_runs"], resumed["metasgd_long_runs"])
    assert any(not torch.equal(t, half["state_dict"][n]) for n, t in resumed["state_dict"].items() if "exponent" in n)


def test_targets_of_another_source_are_refused():
    with pytest.raises(UserError, match="SmallProblems"):
        RelativeLoss().validate_targets(torch.zeros(2, 4, 1))
