"""Heads that meet any number of classes: a task gives each class a row of its own."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HeadName = Literal["linear", "class_agnostic", "prototype"]


class ClassAgnosticHead(nn.Module):
    """A linear classifier that knows no class: every row starts from the same vector.

    A task's adaptation expands the single row to as many as the task has ways, so that the learner is
    indifferent to the order of the classes and meets any number of them (Ye and Chao, ICLR 2022). Cross-entropy
    does not see what all rows have in common: the vector stays at zero (Kao et al., ICLR 2022), and the first inner
    step moves the head alone, to a learned dot product with the support set's features. From the second on, all moves.

    Args:
        features: D, numbers that the head reads of each example.

    Example:
        >>> ClassAgnosticHead(3)(torch.ones(4, 3)).shape  # one row before a task, N in it
        torch.Size([4, 1])

    References:
        Ye and Chao, How to train your MAML to excel in few-shot classification, ICLR 2022; Kao, Chiu and Chen, MAML
        is a noisy contrastive learner in classification, ICLR 2022.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, features))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """``[X, features]`` to ``[X, rows]``: N rows in a task, 1 before it."""
        return F.linear(x, self.weight, self.bias)


class PrototypeHead(ClassAgnosticHead):
    """A linear classifier whose rows start from the means of the support set's features (ProtoMAML).

    Before the first inner step the row of class c is, with the network's features ``h`` and n_c support examples,

        w_c = s h_c,   b_c = −s/2 |h_c|²,   h_c = 1/n_c Σ_{i: y_i = c} h(x_i)

    so that the logits ``w_c · h(x) + b_c`` are ``−s/2 |h(x) − h_c|²`` up to a term that all classes share. For features
    of one length ``b_c`` can be left out, with one example of each class to the same effect. Gradients pass through the
    rows, which adapt like all other weights; on the query set the logits are multiplied by a temperature t. Both s and
    t are learned, as logarithms. Without an inner step this is a prototypical network; with steps, unlike a head whose
    rows start alike, the first of them already moves the layers below.

    Args:
        features: D, numbers that the head reads of each example.
        one_length: whether every example's features have the same length, and ``b_c`` is 0. The mean of several is the
            shorter the less they are alike: without ``b_c`` such classes are predicted too rarely.
        scale: where s starts; by default ``2 / D``, for which the inner loss of features of mean square 1 has logits
            within ±2: where they are sharper, a support example that is its own prototype leaves nothing to adapt.
            t starts at 4, for outputs within ±8.

    Example:
        >>> head = PrototypeHead(features=2, scale=1.0)
        >>> support, classes = torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, 4.0]]), torch.tensor([0, 1, 1])
        >>> w, b = head.rows(head.log_scale, support, classes, n_way=2)
        >>> w.tolist(), b.tolist()
        ([[1.0, 0.0], [0.0, 3.0]], [-0.5, -4.5])

    References:
        Snell et al., NeurIPS 2017 (prototypical networks); Triantafillou et al., ICLR 2020 (ProtoMAML).
    """

    SCALES = ("log_scale", "log_temperature")
    """Its parameters beside the rows: learned at outer steps, and the same in all inner steps."""

    def __init__(self, features: int, one_length: bool = False, scale: float | None = None) -> None:
        super().__init__(features)
        self.one_length = one_length
        start = 2 / features if scale is None else scale
        self.log_scale = nn.Parameter(torch.tensor(start).log())
        self.log_temperature = nn.Parameter(torch.tensor(4.0).log())

    def rows(self, log_scale: Tensor, features: Tensor, targets: Tensor, n_way: int) -> tuple[Tensor, Tensor]:
        """``(w, b)`` of a task, ``[N, D]`` and ``[N]``.

        Args:
            log_scale: the logarithm of s, a scalar.
            features: h of the support set, ``[X, D]``.
            targets: the classes 0 … N − 1, ``[X]``, each at least once.
            n_way: N.
        """
        member = F.one_hot(targets, n_way).to(features.dtype)
        means = (member.T @ features) / member.sum(dim=0)[:, None]
        weight = log_scale.exp() * means
        bias = means.new_zeros(n_way) if self.one_length else -0.5 * log_scale.exp() * means.square().sum(dim=1)
        return weight, bias

    def left_out(self, features: Tensor, targets: Tensor) -> Tensor:
        """The logits of each example by the rows of all the others, ``[X, N]``.

        Args:
            features: h of the support set, ``[X, D]``.
            targets: the classes 0 … N − 1, ``[X]``, each at least once; where an example is its class's only one, that
                class has the logit −∞.
        """
        member = F.one_hot(targets).to(features.dtype)
        counts = member.sum(dim=0)
        sums = member.T @ features
        scale = self.log_scale.exp()

        def logits(means: Tensor, shift: Tensor) -> Tensor:
            return scale * (shift if self.one_length else shift - 0.5 * means.square().sum(dim=-1))

        means = sums / counts[:, None]
        found = logits(means, features @ means.T)
        others = (sums[targets] - features) / (counts[targets] - 1)[:, None]
        own = logits(others, (features * others).sum(dim=-1)).nan_to_num(nan=-torch.inf, posinf=-torch.inf)
        return found.scatter(1, targets[:, None], own[:, None])


def features_read(network: nn.Module, head: str, x: Tensor, at_once: int = 32) -> Tensor:
    """What the head called ``head`` reads of each example, ``[X, D]``; in evaluation mode, so many at once."""
    read: list[Tensor] = []
    hook = network.get_submodule(head).register_forward_pre_hook(lambda _, inputs: read.append(inputs[0].flatten(1)))
    with hook:
        for start in range(0, len(x), at_once):
            network(x[start : start + at_once])
    return torch.cat(read)


def head_of(kind: HeadName, features: int, n_way: int, one_length: bool = False) -> nn.Module:
    """The head of that name.

    Args:
        kind: ``linear``, ``class_agnostic`` or ``prototype``.
        features: D, numbers that it reads of each example.
        n_way: classes of a linear one.
        one_length: of a prototype head; see there.
    """
    if kind == "linear":
        return nn.Linear(features, n_way)
    return PrototypeHead(features, one_length) if kind == "prototype" else ClassAgnosticHead(features)
