"""Sinusoid regression: fit a new curve from K points (Li et al. 2017, section 4.1)."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metasgd.data.rng import Split, task_stream
from metasgd.data.source import Sampler, Source
from metasgd.data.task_shape import TaskShape
from metasgd.episode import Episode

AMPLITUDE = (0.1, 5.0)
FREQUENCY = (0.8, 1.2)
PHASE = (0.0, np.pi)
X_RANGE = (-5.0, 5.0)


class Sinusoid(Source):
    """Curves ``y = A sin(ωx + b)`` with A in [0.1, 5], ω in [0.8, 1.2], b in [0, π], and x in [−5, 5].

    The curves of different splits come from different random streams of the same family. Nothing is read
    from ``root``.

    Example:
        >>> sampler = Sinusoid().sampler("train", Path(), Path(), seed=0, shape=TaskShape(n_way=1, k_shot=5, n_query=9))
        >>> tasks = sampler.draw(np.arange(4))
        >>> tasks.support_x.shape, tasks.query_y.shape
        (torch.Size([4, 5, 1]), torch.Size([4, 9, 1]))

    References:
        Li et al. 2017, section 4.1 (arXiv 1707.09835); Finn et al. 2017, section 5.1 (arXiv 1703.03400).
    """

    def prepare(self, root: Path, cache_dir: Path) -> None:
        """Nothing to do: curves are made as they are asked for."""

    def sampler(self, split: Split, root: Path, cache_dir: Path, seed: int, shape: TaskShape) -> Sampler:
        shape.validate_without_classes("a curve", "curves")
        return SinusoidSampler(split, seed, shape)


class SinusoidSampler:
    """Draws a curve, K support points and Q query points on it; float32 ``[B, points, 1]``."""

    def __init__(self, split: Split, seed: int, shape: TaskShape) -> None:
        self.split, self.seed, self.shape = split, seed, shape

    def curves(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """``(A, ω, b)`` of each task, ``[B, 3]``, and its points' x, ``[B, K+Q]``, support first."""
        points = self.shape.k_shot + self.shape.n_query
        uniform = np.stack([task_stream(self.seed, self.split, int(i)).random(3 + points) for i in indices])
        low, high = np.array([AMPLITUDE, FREQUENCY, PHASE]).T
        parameters = low + uniform[:, :3] * (high - low)
        return parameters, X_RANGE[0] + uniform[:, 3:] * (X_RANGE[1] - X_RANGE[0])

    def draw(self, indices: NDArray[np.int64]) -> Episode:
        parameters, x = self.curves(indices)
        k = self.shape.k_shot
        return _episode(parameters, x[:, :k], x[:, k:], indices)

    def draw_whole(self, indices: NDArray[np.int64], points: int) -> Episode:
        """The same tasks, evaluated on equally spaced points of the whole curve: to look at, not to score."""
        parameters, x = self.curves(indices)
        whole = np.broadcast_to(np.linspace(*X_RANGE, points), (len(indices), points))
        return _episode(parameters, x[:, : self.shape.k_shot], whole, indices)


def _episode(
    parameters: NDArray[np.float64],
    support_x: NDArray[np.float64],
    query_x: NDArray[np.float64],
    indices: NDArray[np.int64],
) -> Episode:
    amplitude, frequency, phase = parameters.T[:, :, None]

    def points(x: NDArray[np.float64]) -> tuple[Tensor, Tensor]:
        y = amplitude * np.sin(frequency * x + phase)
        return torch.from_numpy(x.astype(np.float32))[..., None], torch.from_numpy(y.astype(np.float32))[..., None]

    return Episode(
        *points(support_x),
        *points(query_x),
        classes=torch.zeros(len(indices), 1, dtype=torch.int64),
        task_index=torch.from_numpy(np.asarray(indices, dtype=np.int64)),
    )
