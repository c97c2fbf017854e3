import pytest
import torch
import torch.nn.functional as F
from support.by_hand import config_of, curves_of, mlp, tasks_of

from metasgd.meta.evaluate import evaluate, merge_evaluations
from metasgd.nn.networks import MLP, ClassAgnosticHead, Conv4
from metasgd.rules.gradient_descent import PerParameter


def test_evaluated_as_trained_by_sgd_with_one_rate():
    """With equal rates, adaptation is torch.optim.SGD."""
    config = config_of(MLP(1, [8], 1), PerParameter(0.05), 3, loss=F.mse_loss)
    with torch.no_grad():
        for alpha in config.rule.parameters():
            alpha.fill_(0.05)
    task = curves_of(1, 5, 6)
    found = evaluate(config, dict(config.network.named_parameters()), task, 3, after=[0, 3])
    start = {n: p.detach().clone() for n, p in config.network.named_parameters()}
    optimizer = torch.optim.SGD(config.network.parameters(), lr=0.05)
    for s in range(3):
        optimizer.zero_grad()
        loss = F.mse_loss(config.network(task.support_x[0]), task.support_y[0])
        assert loss.item() == pytest.approx(found.support_losses[0, s].item(), abs=1e-12)
        loss.backward()
        optimizer.step()
    after = config.network(task.query_x[0])
    torch.testing.assert_close(found.outputs[0, 1], after, atol=1e-12, rtol=0)
    torch.testing.assert_close(found.outputs[0, 0], mlp(start, task.query_x[0]), atol=1e-12, rtol=0)


def test_no_inner_step_evaluates_the_start():
    config = config_of(Conv4(n_way=3, width=3, image_size=12), PerParameter(0.1), 1)
    tasks = tasks_of(2, 3, 1, 2, (1, 12, 12))
    found = evaluate(config, dict(config.network.named_parameters()), tasks, 0, after=[0])
    assert found.support_losses.shape == (2, 0)
    # rows that know no class answer the same for every class
    torch.testing.assert_close(found.query_losses, torch.full((2, 1), 3.0).double().log())


def test_evaluation_builds_no_outer_graph():
    config = config_of(Conv4(n_way=3, width=3, image_size=12), PerParameter(0.1), 2)
    tasks = tasks_of(2, 3, 1, 2, (1, 12, 12))
    with torch.no_grad():  # as the Trainer evaluates
        found = evaluate(config, dict(config.network.named_parameters()), tasks, 2, after=[0, 1, 2])
    assert not any(t.requires_grad for t in (found.query_losses, found.support_losses, found.outputs))
    assert (found.query_losses[:, 0] != found.query_losses[:, 2]).all()
    assert all(p.grad is None for p in config.network.parameters())


def test_the_order_of_the_classes_does_not_matter_to_a_class_agnostic_head():
    config = config_of(Conv4(width=3, image_size=12), PerParameter(0.1), 3)
    assert isinstance(config.network.head, ClassAgnosticHead)
    tasks = tasks_of(2, 4, 1, 2, (1, 12, 12))
    new_place = torch.tensor([2, 0, 3, 1])  # class n is called new_place[n]
    renamed = tasks._replace(support_y=new_place[tasks.support_y], query_y=new_place[tasks.query_y])
    theta = dict(config.network.named_parameters())
    before, after = (evaluate(config, theta, t, 3, after=[3]) for t in (tasks, renamed))
    torch.testing.assert_close(before.outputs, after.outputs[..., new_place], atol=1e-12, rtol=0)
    torch.testing.assert_close(before.query_losses, after.query_losses, atol=1e-12, rtol=0)


@pytest.mark.parametrize("n_way", [2, 5, 20])
def test_one_class_agnostic_learner_meets_any_number_of_ways(n_way):
    config = config_of(Conv4(n_way=5, width=3, image_size=12), PerParameter(0.1), 2)
    tasks = tasks_of(2, n_way, 1, 2, (1, 12, 12))
    found = evaluate(config, dict(config.network.named_parameters()), tasks, 2, after=[2])
    assert found.outputs.shape == (2, 1, n_way * 2, n_way)
    assert found.outputs.isfinite().all()


def test_without_transduction_no_query_sees_another():
    config = config_of(Conv4(width=3, image_size=12), PerParameter(0.1), 1, transductive=False)
    tasks = tasks_of(1, 3, 2, 2, (1, 12, 12))
    theta = dict(config.network.named_parameters())
    alone = tasks._replace(query_x=tasks.query_x[:, :1], query_y=tasks.query_y[:, :1])
    together, one = (evaluate(config, theta, t, 1, after=[1]).outputs[:, :, :1] for t in (tasks, alone))
    torch.testing.assert_close(together, one, atol=1e-12, rtol=0)


def test_evaluations_merge_in_order():
    config = config_of(MLP(1, [8], 1), PerParameter(0.05), 1, loss=F.mse_loss)
    tasks = curves_of(3, 5, 6)
    theta = dict(config.network.named_parameters())
    whole = evaluate(config, theta, tasks, 1, after=[0, 1])
    merged = merge_evaluations(evaluate(config, theta, tasks.tasks(b, b + 1), 1, after=[0, 1]) for b in range(3))
    torch.testing.assert_close(whole.query_losses, merged.query_losses)
    torch.testing.assert_close(whole.outputs, merged.outputs)
