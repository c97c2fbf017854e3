"""Sets of classes that hold the true one as often as asked, and pictures of no class, by examples that were left out.

Shape letters: n examples left out, X examples, N classes.
"""

from dataclasses import dataclass
from math import ceil, floor

import numpy as np
from numpy.typing import ArrayLike, NDArray

from metasgd.errors import UserError

Figures = NDArray[np.float64]


@dataclass(frozen=True)
class LeftOut:
    """What a learner makes of each support example when it is adapted to all the others.

    The example that is asked about was no part of that adaptation either. So far as it is drawn like the support
    examples, its score is as likely to have any rank among theirs: split conformal prediction, with scores by
    leave-one-out in place of a set held back (Vovk, Gammerman and Shafer 2005; Barber et al. 2021, the jackknife).

    Attributes:
        outputs: ``[n, N]``, the logits.
        targets: ``[n]``, the true classes, 0 … N − 1.

    Example:
        >>> left_out = LeftOut(np.array([[2.0, 0.0], [1.0, 0.0], [0.0, 3.0]]), np.array([0, 0, 1]))
        >>> left_out.sets([[1.5, 0.0], [0.1, 0.0]], coverage=0.75).tolist()
        [[True, False], [True, False]]
        >>> left_out.unknown([[1.5, 0.0], [0.1, 0.0]], rate=0.25).tolist()
        [False, True]
    """

    outputs: Figures
    targets: NDArray[np.int64]

    @property
    def right(self) -> int:
        """How many are predicted right."""
        return int((self.outputs.argmax(axis=1) == self.targets).sum())

    def sets(self, outputs: ArrayLike, coverage: float) -> NDArray[np.bool_]:
        """Which classes are in each example's set, ``[X, N]``; the likeliest always is.

        A class c is in it where ``1 − p_c`` is at most the ``⌈(n + 1) coverage⌉``-th smallest of ``1 − p_true`` of the
        n left out.

        Args:
            outputs: logits, ``[X, N]``.
            coverage: the share of sets that is to hold the true class, above 0 and below 1.

        Raises:
            UserError: ``coverage`` is out of range, or needs more examples left out than there are.
        """
        rank = rank_of_coverage(coverage, len(self.targets))
        probabilities, of_left_out = _softmax(outputs), _softmax(self.outputs)
        scores = np.sort(1 - np.take_along_axis(of_left_out, self.targets[:, None], axis=1)[:, 0])
        found: NDArray[np.bool_] = 1 - probabilities <= scores[rank - 1]
        found[np.arange(len(found)), probabilities.argmax(axis=1)] = True
        return found

    def unknown(self, outputs: ArrayLike, rate: float) -> NDArray[np.bool_]:
        """Which examples are of none of the classes, ``[X]``: those whose highest logit is lower than is usual.

        That is lower than the ``⌊(n + 1) rate⌋``-th smallest of the highest logits of the n left out (the maximum
        logit score of Vaze et al. 2022).

        Args:
            outputs: logits, ``[X, N]``.
            rate: the share of examples of the N classes that may be called unknown, above 0 and below 1.

        Raises:
            UserError: ``rate`` is out of range, or needs more examples left out than there are.
        """
        rank = rank_of_unknown(rate, len(self.targets))
        highest = np.sort(self.outputs.max(axis=1))
        found: NDArray[np.bool_] = np.asarray(outputs, dtype=np.float64).max(axis=1) < highest[rank - 1]
        return found


def rank_of_coverage(coverage: float, n: int) -> int:
    """``⌈(n + 1) coverage⌉``.

    Raises:
        UserError: ``coverage`` is out of range, or that is more than n.
    """
    _validate_share("coverage", coverage)
    rank = ceil(round((n + 1) * coverage, 9))  # 10 * 0.9 is 9 exactly
    if rank > n:
        raise UserError(f"coverage is {coverage:g}, which {_needs(coverage, n)}, or a lower coverage")
    return rank


def rank_of_unknown(rate: float, n: int) -> int:
    """``⌊(n + 1) rate⌋``.

    Raises:
        UserError: ``rate`` is out of range, or that is less than 1.
    """
    _validate_share("unknown", rate)
    rank = floor(round((n + 1) * rate, 9))
    if rank < 1:
        raise UserError(f"unknown is {rate:g}, which {_needs(1 - rate, n)}, or a higher rate")
    return rank


def _needs(coverage: float, n: int) -> str:
    fewest = ceil(round(coverage / (1 - coverage), 9))
    return (
        f"needs at least {fewest} support examples whose class has others: there are {n}. Give more examples of each"
        " class"
    )


def _validate_share(name: str, share: float) -> None:
    if not 0 < share < 1:
        raise UserError(f"{name} is {share:g}: a share above 0 and below 1 is needed, as 0.9")


def _softmax(outputs: ArrayLike) -> Figures:
    logits = np.asarray(outputs, dtype=np.float64)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    found: Figures = powers / powers.sum(axis=1, keepdims=True)
    return found
