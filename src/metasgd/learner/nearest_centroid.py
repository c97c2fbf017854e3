"""Nearest centroids of a network's features: what any inner steps are to be better than, and needs no meta-training.

Shape letters: X examples, N classes, D features.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from metasgd.learner.meta_learner import MetaLearner
from metasgd.meta.model import MetaModel
from metasgd.nn.backbones.backbone import Backbone
from metasgd.nn.calling import network_copy
from metasgd.nn.heads import ClassAgnosticHead, PrototypeHead
from metasgd.nn.networks import prototype_head
from metasgd.rules.gradient_descent import Fixed

SCALES = torch.logspace(-4, 4, 161)
"""Factors of a head's scale that are tried."""


def pretrained(model: str, weights: str = "DEFAULT") -> MetaLearner:
    """A learner of a backbone that was trained elsewhere, by nearest centroids of its features, without inner steps.

    Offered as ``metasgd.pretrained``.

    Args:
        model: a name in torchvision or timm, as ``metasgd.nn.Backbone`` takes it.
        weights: their name in the library, or a file.

    Returns:
        A learner without inner steps: ``adapt`` takes the means of each class's features.

    Raises:
        UserError: there is no such model, or no such weights.

    Example:
        >>> learner = pretrained("resnet18")  # doctest: +SKIP
        >>> learner.adapt(images, labels).predict(more_images)  # doctest: +SKIP
    """
    network = {"class_path": "metasgd.nn.Backbone", "init_args": {"model": model, "weights": weights}}
    return MetaLearner(_without_steps(Backbone(model, weights)), {"model": {"network": network}})


def by_nearest_centroid(learner: MetaLearner) -> MetaLearner | None:
    """The same network, with the means of its features for rows of its head and no inner steps.

    None for a network whose head is none of ours, of which it is not known what it reads.
    """
    if prototype_head(learner.model.network) is None:
        return with_head(learner, PrototypeHead)
    return without_steps(learner, network_copy(learner.model.network, share=False))  # whose scale may be changed


def with_head(learner: MetaLearner, made: Callable[[int], nn.Module]) -> MetaLearner | None:
    """The learner with another head and no inner steps; all else of its network is the same tensors.

    None for a network whose head is none of ours for any number of classes.

    Args:
        learner: whose network is copied.
        made: the head of so many features.
    """
    network = network_copy(learner.model.network)
    found = next(((n, m) for n, m in network.named_modules() if isinstance(m, ClassAgnosticHead)), None)
    if found is None:
        return None
    name, head = found
    parent, _, own = name.rpartition(".")
    setattr(network.get_submodule(parent), own, made(head.weight.shape[1]).to(head.weight))
    return without_steps(learner, network)


def without_steps(learner: MetaLearner, network: nn.Module) -> MetaLearner:
    """The learner with another network, of a prototype head, and no inner steps."""
    return replace(learner, model=_without_steps(network, learner.model.config.transductive))


def head_alone(learner: MetaLearner) -> MetaLearner:
    """Of a learner without inner steps the prototype head alone, the same module: it takes features for examples."""
    found = prototype_head(learner.model.network)
    assert found is not None
    return without_steps(learner, nn.Sequential(OrderedDict(head=found[1])))


def _without_steps(network: nn.Module, transductive: bool = True) -> MetaModel:
    head = prototype_head(network)
    adapts = "all" if head is None else f"{head[0]}.*"
    return MetaModel(network, Fixed(), inner_steps=0, adapts=adapts, transductive=transductive).eval()


@torch.no_grad()
def with_scale(learner: MetaLearner, inputs: Tensor, targets: Tensor) -> MetaLearner:
    """The learner with the scale of its head by which its probabilities are as high as it is right.

    The mean of the highest probability of each left-out example becomes ``(r + 1) / (n + 2)``, where r of n are
    predicted right: that of Laplace's rule of succession, so that twenty right ones of twenty are no certainty.

    Args:
        learner: of a network with a prototype head, changed in place.
        inputs: the support set, ``[X, …]``.
        targets: its classes 0 … N − 1, ``[X]``; those of one example say nothing.
    """
    found = prototype_head(learner.model.network)
    counted = targets.bincount()[targets] > 1
    if found is None or not counted.any():
        return learner
    logits, truth = learner.left_out_logits(inputs, targets)[counted], targets[counted]
    right = (logits.argmax(dim=1) == truth).sum()
    share = (right + 1) / (len(truth) + 2)
    scales = SCALES.to(logits)
    confidence = torch.stack([(scale * logits).softmax(dim=1).amax(dim=1).mean() for scale in scales])
    found[1].log_scale.add_(scales[(confidence - share).abs().argmin()].log())
    return learner
