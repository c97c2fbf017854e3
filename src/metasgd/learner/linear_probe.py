"""A linear probe: logistic regression on a network's features, for the rows of its head.

Shape letters: X examples, N classes, D features, K fits side by side.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from metasgd.learner.meta_learner import MetaLearner
from metasgd.learner.nearest_centroid import with_head
from metasgd.nn.heads import PrototypeHead

EACH_ALONE, FOLDS = 50, 10
"""So many examples are left out each alone; of more, a tenth at a time."""
SMALLEST_GRADIENT, MOST_ITERATIONS = 1e-6, 200


class ProbeHead(PrototypeHead):
    """A head whose rows are fit to the support set by multinomial logistic regression.

    They minimise ``Σ_i a_i CE(W h(x_i) / r + b, y_i) + ½ |W|²``, where r² is the mean square of the features that it
    is fit to, and a_i lets every class weigh the same: scikit-learn's LogisticRegression as it comes, on features of
    mean square 1, but with ``class_weight="balanced"``. The rows are constants: no gradient goes through them.

    Args:
        features: D, numbers that the head reads of each example.

    Example:
        >>> head = ProbeHead(features=1)
        >>> x, y = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]]), torch.tensor([0, 0, 1, 1])
        >>> w, b = head.rows(head.log_scale, x, y, n_way=2)
        >>> (x @ w.T + b).argmax(dim=1).tolist()
        [0, 0, 1, 1]

    References:
        Tian, Wang, Krishnan, Tenenbaum, Isola 2020: Rethinking few-shot image classification, ECCV,
        https://arxiv.org/abs/2003.11539
    """

    def __init__(self, features: int) -> None:
        super().__init__(features, scale=0.25)  # times the temperature 4: probabilities as they are fit

    def rows(self, log_scale: Tensor, features: Tensor, targets: Tensor, n_way: int) -> tuple[Tensor, Tensor]:
        weight, bias = logistic_regressions(features, targets, n_way, torch.ones(1, len(features), dtype=torch.bool))
        scale = log_scale.exp()
        return scale * weight[0].to(features), scale * bias[0].to(features)

    def left_out(self, features: Tensor, targets: Tensor) -> Tensor:
        several = targets.bincount()[targets] > 1
        fold = folds(targets)
        used = (fold != torch.arange(int(fold.max()) + 1, device=fold.device)[:, None]) | ~several
        weight, bias = logistic_regressions(features, targets, int(targets.max()) + 1, used)
        logits = features.new_empty(len(features), weight.shape[1])
        for k, (w, b) in enumerate(zip(weight, bias, strict=True)):
            logits[fold == k] = features[fold == k] @ w.to(features).T + b.to(features)
        logits[~several, targets[~several]] = -torch.inf
        return self.log_scale.exp() * logits


def folds(targets: Tensor) -> Tensor:
    """Which examples are left out together, ``[X]``: each alone, or of many a tenth, never a whole class.

    A class's only example is in the first fold, and is not left out.

    Args:
        targets: the classes 0 … N − 1, ``[X]``.
    """
    several = targets.bincount()[targets] > 1
    n = int(several.sum())
    found = torch.zeros_like(targets)
    by_class = targets.argsort(stable=True)
    by_class = by_class[several[by_class]]
    found[by_class] = torch.arange(n, device=targets.device) % (n if n <= EACH_ALONE else FOLDS)
    return found


@torch.no_grad()
def logistic_regressions(features: Tensor, targets: Tensor, n_way: int, used: Tensor) -> tuple[Tensor, Tensor]:
    """Fit K linear classifiers at once, each to the examples that it may use; see :class:`ProbeHead`.

    In float64 on the CPU, by L-BFGS. The solution lies in the span of the examples, so that it is sought in their
    principal axes, at most X of them, each scaled by about the root of the curvature along it.

    Args:
        features: ``[X, D]``.
        targets: the classes 0 … N − 1, ``[X]``.
        n_way: N.
        used: which examples each classifier is fit to, ``[K, X]``; some of every class.

    Returns:
        Their weights ``[K, N, D]`` and biases ``[K, N]``, in float64.
    """
    h, y, of_fit = features.cpu().double(), targets.cpu(), used.cpu().double()
    square = h.square().mean(dim=1).clamp(min=torch.finfo(torch.float32).tiny)
    size = square.mean().sqrt()
    left, lengths, axes = torch.linalg.svd(h / size, full_matrices=False)
    scales = (1 + lengths.square() / 8).rsqrt()
    z = F.pad(left * lengths * scales, (0, 1), value=1.0)
    own_size = of_fit @ square / of_fit.sum(dim=1) / size.square()
    decay = (own_size[:, None] * F.pad(scales.square(), (0, 1))).repeat_interleave(n_way, dim=0)  # none of the biases
    member = F.one_hot(y, n_way).double()
    share = of_fit.sum(dim=1, keepdim=True) / n_way / (of_fit @ member)
    weights = (of_fit * share[:, y]).T
    theta = torch.zeros(len(used) * n_way, z.shape[1], dtype=torch.float64)
    optimizer = torch.optim.LBFGS(
        [theta],
        max_iter=MOST_ITERATIONS,
        tolerance_grad=SMALLEST_GRADIENT,
        tolerance_change=0.0,
        history_size=10,
        line_search_fn="strong_wolfe",
    )

    def loss_and_gradient() -> Tensor:
        log_p = (z @ theta.T).view(len(z), len(used), n_way).log_softmax(dim=2)
        theta.grad = (weights[:, :, None] * (log_p.exp() - member[:, None])).flatten(1).T @ z + decay * theta
        return 0.5 * (decay * theta.square()).sum() - (weights[:, :, None] * member[:, None] * log_p).sum()

    optimizer.step(loss_and_gradient)  # type: ignore[no-untyped-call]
    weight = (theta[:, :-1] * scales) @ axes / size
    return weight.view(len(used), n_way, -1), theta[:, -1].view(len(used), n_way)


def by_linear_probe(learner: MetaLearner) -> MetaLearner | None:
    """The same network, with a :class:`ProbeHead` and no inner steps.

    None for a network whose head is none of ours, of which it is not known what it reads.
    """
    return with_head(learner, ProbeHead)
