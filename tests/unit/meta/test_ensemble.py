"""What several models predict together, against the mean of what each predicts alone, in float64."""

import torch
from torch import nn

from metasgd.episode import Episode
from metasgd.meta.ensemble import evaluate_together, mean_prediction
from metasgd.meta.model import MetaModel
from metasgd.rules import Fixed


def model_of(seed: int, inner_steps: int, outputs: int = 3, **options) -> MetaModel:
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, outputs)).double()
    return MetaModel(network, Fixed(0.3), inner_steps=inner_steps, engine="loop", **options)


def tasks_of(seed: int, regression: bool = False) -> Episode:
    torch.manual_seed(seed)
    x = torch.randn(2, 2, 6, 4, dtype=torch.float64)
    y = torch.randn(2, 6, 1, dtype=torch.float64) if regression else torch.arange(3).repeat_interleave(2).expand(2, 6)
    return Episode(x[0], y, x[1], y, torch.zeros(2, 1 if regression else 3, dtype=torch.int64), torch.arange(2))


def test_probabilities_are_averaged_over_models_and_views():
    models, views = [model_of(0, 1), model_of(1, 3)], [tasks_of(2), tasks_of(3)]
    views[1] = views[1]._replace(query_x=views[0].query_x)
    found = evaluate_together(models, views, after=[0, 1, 2, 3])
    for j, s in enumerate([0, 1, 2, 3]):
        alone = [
            model.evaluate(view, [min(s, steps)]).outputs[:, 0].softmax(dim=-1)
            for model, steps in zip(models, (1, 3), strict=True)
            for view in views
        ]
        mean = sum(alone) / 4
        torch.testing.assert_close(found.outputs[:, j].softmax(dim=-1), mean, rtol=1e-12, atol=0)
        right = mean.gather(2, views[0].query_y[..., None])[..., 0]
        torch.testing.assert_close(found.query_losses[:, j], -right.log().mean(dim=1), rtol=1e-12, atol=0)


def test_outputs_of_a_regression_are_averaged():
    models, tasks = [model_of(seed, 1, 1, loss="mse") for seed in range(3)], tasks_of(4, regression=True)
    found = evaluate_together(models, [tasks], after=[1])
    mean = sum(model.evaluate(tasks, [1]).outputs for model in models) / 3
    torch.testing.assert_close(found.outputs, mean, rtol=1e-12, atol=0)
    errors = (mean[:, 0] - tasks.query_y).square().mean(dim=(1, 2))
    torch.testing.assert_close(found.query_losses[:, 0], errors, rtol=1e-12, atol=0)


def test_one_model_on_one_view_is_as_it_is_alone():
    model, tasks = model_of(0, 2), tasks_of(2)
    assert torch.equal(evaluate_together([model], [tasks], [2]).outputs, model.evaluate(tasks, [2]).outputs)


def test_probabilities_too_small_for_their_type_still_count():
    certain = torch.tensor([[0.0, 2000.0]], dtype=torch.bfloat16)
    found = mean_prediction([certain, certain], classes=True)
    assert found.dtype == torch.float32
    assert found.tolist() == [[-2000.0, 0.0]]
