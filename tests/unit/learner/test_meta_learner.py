"""The Python API against the inner step written out by hand, and against scikit-learn's habits."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from metasgd.errors import UserError
from metasgd.learner.meta_learner import MetaLearner
from metasgd.meta.model import MetaModel
from metasgd.meta.objectives import CrossEntropy
from metasgd.nn import Backbone
from metasgd.nn.networks import MLP, Conv4
from metasgd.rules.gradient_descent import PerLayerPerStep, PerParameter
from metasgd.rules.optimizer_network import OptimizerNetwork


def learner_of(rule=None, head="class_agnostic", n_way=5, **options) -> MetaLearner:
    torch.manual_seed(0)
    network = Conv4(n_way=n_way, head=head, width=4, image_size=8)
    with torch.no_grad():
        for p in network.head.parameters():
            p.normal_(std=0.1)
    return MetaLearner(MetaModel(network, rule or PerParameter(0.3), **options), {})


def regression() -> MetaLearner:
    torch.manual_seed(0)
    return MetaLearner(MetaModel(MLP(2, [8], 1), PerParameter(0.05), inner_steps=3, loss="mse"), {})


def images(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(256, size=(n, 1, 8, 8), dtype=np.uint8)


Y = np.array(["cat", "ant", "cat", "bee", "ant", "cat"])
WEIGHT = {"ant": 1 / 2, "bee": 1.0, "cat": 1 / 3}


def test_one_step_with_unequal_shots_by_hand():
    """θ − α ⊙ ∇(mean over classes of the mean loss of each class's examples), then BatchNorm by the support set."""
    learner = learner_of()
    adapted = learner.adapt(images(6), Y)
    network = learner.module.network
    x = torch.from_numpy(images(6)).float() / 255
    target = torch.tensor([{"ant": 0, "bee": 1, "cat": 2}[y] for y in Y])
    weights = torch.tensor([WEIGHT[y] for y in Y])

    def loss_at(params):
        losses = F.cross_entropy(functional_call(network, params, (x,)), target, reduction="none")
        return (weights * losses).sum() / 3

    theta = {
        n: (p.expand(3, *p.shape[1:]) if n.startswith("head.") else p).detach().clone().requires_grad_()
        for n, p in network.named_parameters()
    }
    loss = loss_at(theta)
    grads = torch.autograd.grad(loss, list(theta.values()))
    stepped = {n: (p - 0.3 * g).detach() for (n, p), g in zip(theta.items(), grads, strict=True)}
    assert adapted.support_losses_ == pytest.approx([loss.item(), loss_at(stepped).item()], abs=1e-5)
    expected = functional_call(network, stepped, (x,)).detach().numpy()
    np.testing.assert_allclose(adapted.decision_function(images(6)), expected, atol=1e-4)


def test_it_has_the_habits_of_scikit_learn():
    adapted = learner_of().adapt(images(6), Y)
    assert list(adapted.classes_) == ["ant", "bee", "cat"]
    assert adapted.n_features_in_ == 64
    probabilities = adapted.predict_proba(images(9, 1))
    assert probabilities.shape == (9, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    predicted = adapted.predict(images(9, 1))
    assert list(predicted) == [adapted.classes_[i] for i in probabilities.argmax(axis=1)]
    assert adapted.score(images(9, 1), predicted) == 1
    assert adapted.score(images(9, 1), np.roll(predicted, 1)) == np.mean(predicted == np.roll(predicted, 1))


@pytest.mark.parametrize("labels", [[3, 1, 3, 7, 1, 3], [True, False, True, True, False, True], list("caczac")])
def test_any_labels_that_can_be_sorted(labels):
    adapted = learner_of().adapt(images(6), labels)
    assert list(adapted.classes_) == sorted(set(labels))
    assert adapted.predict(images(2)).dtype == np.asarray(labels).dtype


def test_the_learner_stays_as_it_is_and_repeats_itself():
    learner = learner_of()
    before = {n: t.clone() for n, t in learner.module.state_dict().items()}
    first, second = (learner.adapt(images(6), Y).decision_function(images(3)) for _ in range(2))
    assert np.array_equal(first, second)
    assert all(torch.equal(t, before[n]) for n, t in learner.module.state_dict().items())


def test_the_same_images_in_every_form():
    learner, x = learner_of(), images(6)
    expected = learner.adapt(x, Y).decision_function(x)
    for form in (x[:, 0], x.reshape(6, 64), x / 255, torch.from_numpy(x), (x / 255).astype(np.float32).tolist()):
        np.testing.assert_allclose(learner.adapt(form, Y).decision_function(form), expected, atol=1e-4)


def test_queries_do_not_influence_each_other_unless_transductive():
    adapted, x = learner_of().adapt(images(6), Y), images(5, 1)
    alone = np.concatenate([adapted.predict_proba(x[i : i + 1]) for i in range(5)])
    np.testing.assert_allclose(adapted.predict_proba(x), alone, atol=1e-5)
    other = x.copy()
    other[1:] = 255 - other[1:]
    assert (
        abs(adapted.predict_proba(x, transductive=True)[0] - adapted.predict_proba(other, transductive=True)[0]).max()
        > 1e-3
    )


def test_transductive_prediction_is_that_of_the_published_protocol():
    learner, x = learner_of(), images(5, 1)
    adapted = learner.adapt(images(6), Y)
    own = functional_call(learner.module.network, adapted._params, (torch.from_numpy(x).float() / 255,))
    np.testing.assert_allclose(adapted.decision_function(x, transductive=True), own.detach().numpy(), atol=1e-6)


def test_leaving_one_out_is_adapting_on_the_others():
    learner, x = learner_of(), images(6)
    left_out = dict(learner.leave_one_out(x, Y))
    assert sorted(left_out) == [0, 1, 2, 4, 5]  # the only bee has no others
    assert learner.n_left_out(Y) == 5
    for i, predicted in left_out.items():
        others = [j for j in range(6) if j != i]
        assert predicted == learner.adapt(x[others], Y[others]).predict(x[[i]])[0]


@pytest.mark.parametrize("rule", [PerLayerPerStep(0.1), OptimizerNetwork(), PerParameter(0.1)])
def test_more_steps_than_in_training_and_the_rates_of_each(rule):
    adapted = learner_of(rule, inner_steps=2).adapt(images(6), Y, inner_steps=5)
    assert len(adapted.support_losses_) == 6
    assert len(adapted.rates_) == 5
    assert adapted.support_losses_[-1] < adapted.support_losses_[0]
    for rates in adapted.rates_:
        assert torch.allclose(rates["head.weight"], torch.tensor(0.1))


def test_a_linear_head_meets_its_own_number_of_classes():
    learner = learner_of(head="linear", n_way=3)
    assert learner.adapt(images(6), Y).predict_proba(images(1)).shape == (1, 3)
    with pytest.raises(UserError, match=r"2 classes were given \(a, b\).*exactly 3 apart.*class-agnostic"):
        learner.adapt(images(6), list("aabbaa"))


def test_regression_returns_outputs():
    x = np.random.default_rng(0).normal(size=(8, 2))
    y = x[:, 0] * 0.5
    adapted = regression().adapt(x, y)
    assert adapted.classes_ is None
    assert adapted.predict(x).shape == (8, 1)
    residual = ((adapted.predict(x)[:, 0] - y) ** 2).sum() / ((y - y.mean()) ** 2).sum()
    assert adapted.score(x, y) == pytest.approx(1 - residual, abs=1e-6)
    with pytest.raises(UserError, match="regression"):
        adapted.predict_proba(x)


@pytest.mark.parametrize(
    ("x", "y", "said"),
    [
        (images(6), Y[:5], "one class for each of the 6"),
        (images(6), ["a"] * 6, "at least 2"),
        (images(6)[:0], [], "x is empty"),
        (images(6)[:, :, :7], Y, "takes images"),
        (np.full((6, 1, 8, 8), np.nan), Y, "not finite"),
        (images(6)[:, 0, 0, 0], Y, r"x has the shape \(6,\)"),
        (images(6).astype(np.int64), Y, "images are uint8, or float from 0 to 1"),
        (images(6).astype(np.float32), Y, "float32 up to 25.: images are uint8, or float from 0 to 1. Divide by 255"),
    ],
)
def test_examples_that_do_not_fit(x, y, said):
    with pytest.raises(UserError, match=said):
        learner_of().adapt(x, y)


def test_questions_that_do_not_fit():
    adapted, x = learner_of().adapt(images(6), Y), images(6)
    with pytest.raises(UserError, match=r"y has the shape \(6, 1\), but the predictions for x have \(6,\)"):
        adapted.score(x, np.array(Y)[:, None])
    of_numbers = regression().adapt(np.ones((4, 2)), np.ones(4))
    with pytest.raises(UserError, match="adapted to examples of 2 values each"):
        of_numbers.predict(np.ones((4, 3)))
    with pytest.raises(UserError, match=r"y has the shape \(5,\)"):
        of_numbers.score(np.ones((4, 2)), np.ones(5))
    with pytest.raises(UserError, match=r"the targets have the shape \(3,\)"):
        regression().adapt(np.ones((4, 2)), np.ones((4, 3)))


def test_no_fewer_than_no_steps():
    with pytest.raises(UserError, match="inner_steps is -1"):
        learner_of().adapt(images(6), Y, inner_steps=-1)
    assert len(learner_of().adapt(images(6), Y, inner_steps=0).support_losses_) == 1


class Counted(nn.Conv2d):
    """Counts the examples that it was given."""

    passed = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.passed += len(x)
        return super().forward(x)


def backbone_learner(adapts: str, inner_steps: int) -> tuple[MetaLearner, Counted]:
    torch.manual_seed(0)
    lower = Counted(1, 4, 3, 2)
    layers = nn.Sequential(lower, nn.GroupNorm(2, 4), nn.Tanh(), nn.Conv2d(4, 4, 3))
    network = Backbone(layers, image_size=[1, 8, 8], classifier="")
    return MetaLearner(MetaModel(network, PerParameter(0.3), inner_steps, adapts=adapts), {}), lower


def test_an_example_passes_layers_that_do_not_adapt_once_for_all_that_are_left_out():
    learner, lower = backbone_learner("last:2", 2)
    x = images(6)
    found = list(learner.left_out(x, Y))
    passed = lower.passed
    assert [i for i, _ in found] == [0, 1, 2, 4, 5]
    for i, outputs in found:
        others = np.arange(6) != i
        adapted = learner.adapt(x[others], Y[others])
        np.testing.assert_allclose(outputs, adapted.decision_function(x[i : i + 1])[0], rtol=1e-5, atol=1e-6)
    assert passed < 5 * 6 < lower.passed - passed
    sixth = next(learner.left_out(x, Y))[1]  # at which the rest of it waits, and the network is as it was
    np.testing.assert_array_equal(sixth, found[0][1])
    learner.adapt(x, Y).predict(x)


def test_with_features_at_hand_the_network_is_not_run_again():
    learner, lower = backbone_learner("head", 0)
    x = images(6)
    expected = learner.adapt(x, Y)
    features = learner.features(torch.from_numpy(x).float() / 255)
    lower.passed = 0
    adapted = learner.adapt(x, Y, features=features)
    assert lower.passed == 2  # to see that it takes such examples
    np.testing.assert_allclose(adapted.support_losses_, expected.support_losses_, rtol=1e-6)
    np.testing.assert_allclose(adapted.decision_function(x), expected.decision_function(x), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(
        adapted.decision_function(x, transductive=True), expected.decision_function(x), rtol=1e-5, atol=1e-6
    )


class Smoothed(CrossEntropy):
    loss = staticmethod(lambda outputs, y: F.cross_entropy(outputs, y, label_smoothing=0.5))


def test_a_loss_of_ones_own_is_that_of_the_adaptation_too():
    torch.manual_seed(0)
    network, x = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)), torch.randn(6, 4)
    y = torch.arange(3).repeat_interleave(2)
    adapted = MetaLearner(MetaModel(network, PerParameter(0.5), loss=Smoothed()), {}).adapt(x, y)
    assert adapted.support_losses_[0] == pytest.approx(Smoothed.loss(network(x), y).item(), rel=1e-5)


def test_stored_statistics_stay_as_they_are_where_the_model_was_training():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3)).train()
    network(torch.randn(16, 1, 8, 8))
    before = network[1].running_mean.clone()
    MetaLearner(MetaModel(network, PerParameter(0.1)), {}).adapt(images(6), [0, 0, 1, 1, 2, 2])
    assert torch.equal(network[1].running_mean, before)


def test_whole_numbers_of_which_a_network_looks_up_rows_stay_whole():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Embedding(20, 8), nn.Flatten(), nn.Linear(48, 3))
    symbols = torch.randint(20, (6, 6))
    adapted = MetaLearner(MetaModel(network, PerParameter(0.1)), {}).adapt(symbols.numpy(), [0, 0, 1, 1, 2, 2])
    assert adapted.decision_function(symbols).shape == (6, 3)
    assert adapted.example().dtype == torch.int64


def test_whole_numbers_that_are_computed_with_are_numbers():
    network = nn.Linear(4, 3)
    y = [0, 0, 1, 1, 2, 2]
    whole = torch.arange(24).reshape(6, 4)
    learner = MetaLearner(MetaModel(network, PerParameter(0.1)), {})
    assert np.array_equal(
        learner.adapt(whole, y).predict(whole), learner.adapt(whole.float(), y).predict(whole.float())
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_network_of_another_precision_is_given_its_own(dtype):
    torch.manual_seed(0)
    learner = MetaLearner(MetaModel(nn.Linear(4, 3).to(dtype), PerParameter(0.1)), {})
    adapted = learner.adapt(torch.randn(7, 4), [0, 0, 1, 1, 2, 2, 2])  # classes of unequal size weigh the same
    found = adapted.decision_function(torch.randn(2, 4))
    assert found.dtype == (np.float64 if dtype == torch.float64 else np.float32)
    assert all(outputs.dtype == found.dtype for _, outputs in learner.left_out(torch.randn(4, 4), [0, 1, 2, 2]))
