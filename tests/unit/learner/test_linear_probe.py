"""The linear probe against the conditions of its minimum, scikit-learn's, and fits without what is left out."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metasgd.learner.linear_probe import FOLDS, ProbeHead, by_linear_probe, folds, logistic_regressions
from metasgd.learner.meta_learner import MetaLearner
from metasgd.learner.nearest_centroid import with_scale
from metasgd.meta.model import MetaModel
from metasgd.nn import MLP, Backbone, ClassAgnosticHead
from metasgd.rules import Fixed

COUNTS = [5, 3, 6]


def examples(counts: list[int], width: int, apart: float = 1.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    targets = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    centres = apart * torch.randn(len(counts), width, generator=generator)
    features = centres[targets] + torch.randn(len(targets), width, generator=generator) + 0.5
    shuffled = torch.randperm(len(targets), generator=generator)
    return 3 * features[shuffled], targets[shuffled]


def learner_of(network: nn.Module, steps: int = 0) -> MetaLearner:
    return MetaLearner(MetaModel(network, Fixed(0.1), inner_steps=steps).eval(), {"model": {}})


@pytest.fixture
def probe() -> tuple[MetaLearner, Tensor, np.ndarray]:
    """Of a backbone, pictures and their classes, one of which has one picture."""
    torch.manual_seed(2)
    body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU())
    learner = by_linear_probe(learner_of(Backbone(body, image_size=8, batch_norm="frozen")))
    assert learner is not None
    return learner, torch.rand(9, 3, 8, 8), np.array(list("abbacacbd"))


@pytest.mark.parametrize("width", [4, 40])  # fewer and more than examples
def test_every_fit_is_at_its_minimum(width):
    features, targets = examples(COUNTS, width)
    used = torch.ones(3, len(targets), dtype=torch.bool)
    used[1, targets.argmax()] = used[2, :4] = False
    weight, bias = logistic_regressions(features, targets, 3, used)
    h = features.double()
    for w, b, of_fit in zip(weight, bias, used, strict=True):
        size = h[of_fit].square().mean().sqrt()
        x, y, w = h[of_fit] / size, targets[of_fit], (w * size).requires_grad_()
        b = b.clone().requires_grad_()
        each = F.cross_entropy(x @ w.T + b, y, reduction="none") * len(y) / (3 * y.bincount()[y])
        (each.sum() + w.square().sum() / 2).backward()
        assert max(w.grad.abs().max(), b.grad.abs().max()) < 1e-5


@pytest.mark.parametrize("balanced", [True, False])
def test_it_is_that_of_scikit_learn(balanced):
    linear_model = pytest.importorskip("sklearn.linear_model")
    features, targets = examples([5, 5, 5] if balanced else COUNTS, 20)
    [weight], [bias] = logistic_regressions(features, targets, 3, torch.ones(1, len(targets), dtype=torch.bool))
    size = features.double().square().mean().sqrt()
    theirs = linear_model.LogisticRegression(tol=1e-10, max_iter=10_000, class_weight=None if balanced else "balanced")
    theirs.fit((features.double() / size).numpy(), targets.numpy())
    np.testing.assert_allclose((weight * size).numpy(), theirs.coef_, atol=2e-6)
    np.testing.assert_allclose((bias - bias.mean()).numpy(), theirs.intercept_ - theirs.intercept_.mean(), atol=1e-4)


def test_features_of_any_size_are_classified_alike():
    features, targets = examples(COUNTS, 10)
    used = torch.ones(1, len(targets), dtype=torch.bool)
    weight, bias = logistic_regressions(features, targets, 3, used)
    of_small, same = logistic_regressions(1e-3 * features, targets, 3, used)
    torch.testing.assert_close(1e-3 * of_small, weight, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(same, bias, rtol=1e-4, atol=1e-4)
    flat, _ = logistic_regressions(torch.zeros(4, 2), torch.tensor([0, 1, 0, 1]), 2, torch.ones(1, 4) > 0)
    assert (flat == 0).all()


@pytest.mark.parametrize("counts", [[4, 2, 5, 1], [2, 40, 21, 1]])
def test_what_is_left_out_is_each_alone_or_a_tenth_and_no_whole_class(counts):
    features, targets = examples(counts, 5)
    fold, several = folds(targets), targets.bincount()[targets] > 1
    n = int(several.sum())
    sizes = fold[several].bincount()
    assert sizes.tolist() == [1] * n if n < 50 else len(sizes) == FOLDS and sizes.max() - sizes.min() <= 1
    head = ProbeHead(5)
    logits = head.left_out(features, targets)
    for i in map(int, several.nonzero()[:3]):
        others = (fold != fold[i]) | ~several
        assert targets[others].bincount().count_nonzero() == len(counts)
        w, b = head.rows(head.log_scale, features[others], targets[others], len(counts))
        expected = (w @ features[i] + b).log_softmax(dim=0)
        torch.testing.assert_close(logits[i].log_softmax(dim=0), expected, rtol=1e-3, atol=1e-3)
    alone = int((~several).nonzero())
    assert logits[alone, targets[alone]] == -torch.inf


def test_its_logits_are_rows_of_a_linear_layer(probe):
    learner, x, y = probe
    adapted = learner.adapt(x, y)
    h = learner.features(x)
    w, b = learner.model.network.head.rows(
        torch.tensor(0.0), h, torch.from_numpy(np.unique(y, return_inverse=True)[1]), 4
    )
    found = adapted.decision_function(x)
    np.testing.assert_allclose(found, h @ w.T + b, atol=1e-4)
    assert (adapted.predict(x) == adapted.classes_[found.argmax(axis=1)]).all()
    assert type(adapted.network.head) is nn.Linear
    np.testing.assert_allclose(adapted.network(x).numpy(), found, atol=1e-6)


def test_what_is_left_out_is_predicted_as_by_adapting_without_it(probe):
    learner, x, y = probe
    left_out = dict(learner.left_out(x, y))
    assert sorted(left_out) == list(range(8))
    for i, outputs in left_out.items():
        others = np.arange(len(y)) != i
        expected = learner.adapt(x[torch.from_numpy(others)], y[others]).predict_proba(x[i : i + 1])[0]
        np.testing.assert_allclose(torch.from_numpy(outputs).softmax(dim=0), expected, atol=1e-4)


def test_its_probabilities_can_be_scaled(probe):
    learner, x, y = probe
    targets = torch.from_numpy(np.unique(y, return_inverse=True)[1])
    right = sum(label == y[i] for i, label in learner.leave_one_out(x, y))
    before = learner.adapt(x, y).predict(x)
    with_scale(learner, x, targets)
    found = learner.left_out_logits(x, targets)[:8].softmax(dim=1).amax(dim=1).mean()
    assert found.item() == pytest.approx((right + 1) / 10, abs=0.02)
    assert (learner.adapt(x, y).predict(x) == before).all()


def test_it_is_made_of_any_learner_with_a_head_of_ours():
    torch.manual_seed(0)
    network = nn.Sequential(OrderedDict(body=nn.Linear(4, 8), head=ClassAgnosticHead(8)))
    learner = learner_of(network, steps=2)
    made = by_linear_probe(learner)
    assert made is not None
    assert made.model.network.body.weight is network.body.weight
    assert type(network.head) is ClassAgnosticHead
    assert made.model.eval_inner_steps == 0
    x, y = torch.rand(6, 4) + torch.eye(2)[[0, 0, 0, 1, 1, 1]].repeat(1, 2), [0, 0, 0, 1, 1, 1]
    assert (made.adapt(x, y).predict(x) == y).all()
    assert by_linear_probe(learner_of(MLP(4, [4], 2), 1)) is None
