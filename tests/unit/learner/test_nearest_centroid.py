"""Nearest centroids against plain NumPy, and what is left out against adaptations without it."""

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import mobilenet_v3_small

from metasgd.errors import UserError
from metasgd.learner.meta_learner import MetaLearner
from metasgd.learner.nearest_centroid import by_nearest_centroid, pretrained, with_scale
from metasgd.meta.model import MetaModel
from metasgd.nn import MLP, Backbone, Conv4
from metasgd.rules import Fixed, PerParameter

Y = np.array(["bee", "ant", "ant", "bee", "cat", "ant", "dog"])
TARGETS = torch.from_numpy(np.unique(Y, return_inverse=True)[1])


def encoder() -> nn.Module:
    torch.manual_seed(2)
    norm = nn.BatchNorm2d(6)
    norm.running_mean.normal_()
    return nn.Sequential(nn.Conv2d(3, 6, 3), norm, nn.ReLU())


def learner_of(network: nn.Module, steps: int = 0) -> MetaLearner:
    return MetaLearner(MetaModel(network, Fixed(0.1), inner_steps=steps).eval(), {"model": {}})


@pytest.fixture
def x() -> torch.Tensor:
    torch.manual_seed(1)
    return torch.rand(len(Y), 3, 8, 8)


@pytest.fixture
def frozen() -> MetaLearner:
    return learner_of(Backbone(encoder(), image_size=8, batch_norm="frozen"))


def features(network: Backbone, x: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        h = network.body(x).mean(dim=(2, 3)).double().numpy()
    return h / np.sqrt((h**2).mean(axis=1, keepdims=True) + 1e-5)


def test_without_steps_the_nearest_centroid_decides(frozen, x):
    h = features(frozen.model.network, x)
    classes = np.unique(Y)
    centroids = np.stack([h[c == Y].mean(axis=0) for c in classes])
    distances = ((h[:, None] - centroids) ** 2).sum(axis=2)
    adapted = frozen.adapt(x, Y)
    assert (adapted.predict(x) == classes[distances.argmin(axis=1)]).all()
    shares = np.exp(-4 / 6 * distances) / np.exp(-4 / 6 * distances).sum(axis=1, keepdims=True)  # s/2 = 8 / (2 · 6)
    np.testing.assert_allclose(adapted.predict_proba(x), shares, atol=1e-5)


def test_what_is_left_out_is_predicted_as_by_adapting_without_it(frozen, x):
    found = dict(frozen.leave_one_out(x, Y))
    logits = frozen.left_out_logits(x, TARGETS)
    assert sorted(found) == [0, 1, 2, 3, 5]  # the others are the only ones of their class
    for i, predicted in found.items():
        others = np.arange(len(Y)) != i
        adapted = frozen.adapt(x[torch.from_numpy(others)], Y[others])
        assert adapted.predict(x[i : i + 1])[0] == predicted
        expected = torch.from_numpy(adapted.decision_function(x[i : i + 1])[0]).log_softmax(dim=0)
        torch.testing.assert_close(logits[i].log_softmax(dim=0), expected, rtol=1e-4, atol=1e-4)
    assert logits[4, 2] == logits[6, 3] == -torch.inf


def test_networks_that_read_batches_are_left_to_adaptations(frozen, x):
    assert frozen.reads_each_alone(x)
    assert not learner_of(
        Backbone(encoder(), image_size=8, batch_norm="frozen", head="class_agnostic"), 1
    ).reads_each_alone(x)
    by_batch = learner_of(Conv4(head="prototype", in_channels=3, image_size=8, width=4))
    assert not by_batch.reads_each_alone(x)
    assert sorted(dict(by_batch.leave_one_out(x, Y))) == [0, 1, 2, 3, 5]


@pytest.mark.parametrize("head", ["class_agnostic", "prototype"])
def test_any_learner_with_a_head_of_ours_has_one_by_nearest_centroids(head, x):
    network = Conv4(head=head, in_channels=3, image_size=8, width=4)
    learner = MetaLearner(MetaModel(network, PerParameter(0.3), inner_steps=2).eval(), {"model": {}})
    before = {n: t.clone() for n, t in learner.model.state_dict().items()}
    centroid = with_scale(by_nearest_centroid(learner), x, TARGETS)
    adapted = centroid.adapt(x, Y)
    with torch.no_grad():
        h = network.body(x).numpy()
    classes = np.unique(Y)
    distances = ((h[:, None] - np.stack([h[c == Y].mean(axis=0) for c in classes])) ** 2).sum(axis=2)
    assert len(adapted.support_losses_) == 1
    assert (adapted.predict(x) == classes[distances.argmin(axis=1)]).all()
    assert all(torch.equal(t, before[n]) for n, t in learner.model.state_dict().items())
    assert by_nearest_centroid(learner_of(MLP(4, [4], 2), 1)) is None


def test_probabilities_are_as_high_as_it_is_right(frozen, x):
    several = torch.tensor([0, 1, 2, 3, 5])
    right = sum(predicted == Y[i] for i, predicted in frozen.leave_one_out(x, Y))
    with_scale(frozen, x, TARGETS)
    found = frozen.left_out_logits(x, TARGETS)[several].softmax(dim=1).amax(dim=1).mean()
    assert found.item() == pytest.approx((right + 1) / 7, abs=0.02)
    scale = frozen.model.network.head.log_scale.item()
    assert with_scale(frozen, x, torch.arange(len(Y))).model.network.head.log_scale.item() == scale


def test_a_pretrained_learner_is_a_backbone_by_name(tmp_path):
    torch.save(mobilenet_v3_small().state_dict(), tmp_path / "w.pt")
    learner = pretrained("mobilenet_v3_small", str(tmp_path / "w.pt"))
    assert learner.model.network.image_shape == (3, 224, 224)
    assert learner.config["model"]["network"]["init_args"]["model"] == "mobilenet_v3_small"
    assert learner.model.eval_inner_steps == 0
    with pytest.raises(UserError, match="weights is gone.pt, which is no file here"):
        pretrained("mobilenet_v3_small", "gone.pt")
