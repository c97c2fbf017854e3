"""Problems that are a function of (seed, split, number): classification, regression, and pictures to reproduce."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from metasgd.data.rng import Split, task_stream
from metasgd.data.source import Sampler, Source
from metasgd.data.task_shape import TaskShape
from metasgd.episode import Episode
from metasgd.supervised.small_problems.objective import OUTPUTS

SIDE, HIDDEN, CAUSES = 8, 24, 10
"""The side of an input as a picture, the width of a teacher, and how many numbers an input is made of."""
Array = NDArray[np.float64]


class SmallProblems(Source):
    """Inputs are smooth pictures of 8×8 with noise; of what they are made of, a random teacher makes the targets.

    A third of the problems each: 2 to 16 classes, of which up to a fifth of the examples has another at random; a
    regression of 1 to 4 numbers, their mean and standard deviation log-uniform from 0.01 to 300, with noise; the inputs
    themselves, in 4×4. The ``k_shot`` support examples are trained on, the query examples held out.

    Example:
        >>> shape = TaskShape(n_way=1, k_shot=32, n_query=16)
        >>> problems = SmallProblems().sampler("train", Path(), Path(), seed=0, shape=shape).draw(np.arange(3))
        >>> problems.support_x.shape, problems.query_y.shape
        (torch.Size([3, 32, 64]), torch.Size([3, 16, 17]))
    """

    def prepare(self, root: Path, cache_dir: Path) -> None:
        """Nothing to do: problems are made as they are asked for."""

    def sampler(self, split: Split, root: Path, cache_dir: Path, seed: int, shape: TaskShape) -> Sampler:
        shape.validate_without_classes("a problem", "problems")
        return SmallProblemSampler(split, seed, shape)


class SmallProblemSampler:
    """Draws problems; float32 ``[B, examples, 64]`` and ``[B, examples, 17]``."""

    def __init__(self, split: Split, seed: int, shape: TaskShape) -> None:
        self.split, self.seed, self.shape = split, seed, shape

    def draw(self, indices: NDArray[np.int64]) -> Episode:
        n = self.shape.k_shot + self.shape.n_query
        x, y = (
            torch.from_numpy(np.stack(part)).float()
            for part in zip(*(problem(task_stream(self.seed, self.split, int(i)), n) for i in indices), strict=True)
        )
        k, numbers = self.shape.k_shot, torch.from_numpy(np.asarray(indices, dtype=np.int64))
        classes = torch.zeros(len(numbers), 1, dtype=torch.int64)
        return Episode(x[:, :k], y[:, :k], x[:, k:], y[:, k:], classes, numbers)


def problem(stream: np.random.Generator, n: int) -> tuple[Array, Array]:
    """Inputs ``[n, 64]`` and targets ``[n, 17]`` of a problem, as ``objective`` reads them."""
    causes = stream.normal(size=(n, CAUSES))
    basis = stream.normal(size=(CAUSES, SIDE // 2, SIDE // 2)).repeat(2, axis=1).repeat(2, axis=2)
    clean = np.tanh(causes @ basis.reshape(CAUSES, -1) / 2)
    x = clean + np.exp(stream.uniform(np.log(0.03), np.log(0.5))) * stream.normal(size=clean.shape)
    kind, y = stream.integers(3), np.zeros((n, 1 + OUTPUTS))
    if kind == 2:
        pooled = x.reshape(n, SIDE // 2, 2, SIDE // 2, 2).mean(axis=(2, 4))
        y[:, 0], y[:, 1:] = -OUTPUTS, pooled.reshape(n, -1)
        return x, y
    outputs = int(stream.integers(2, OUTPUTS + 1) if kind == 0 else stream.integers(1, 5))
    steep = np.exp(stream.uniform(np.log(0.5), np.log(3)))
    first = steep * stream.normal(size=(CAUSES, HIDDEN)) / np.sqrt(CAUSES)
    answers = np.tanh(causes @ first) @ stream.normal(size=(HIDDEN, outputs))
    answers = (answers - answers.mean(axis=0)) / answers.std(axis=0)
    if kind == 0:
        wrong = stream.random(n) < stream.uniform(0, 0.2)
        classes = np.where(wrong, stream.integers(outputs, size=n), answers.argmax(axis=1))
        y[:, 0] = outputs
        y[np.arange(n), 1 + classes] = 1
        return x, y
    noise = stream.uniform(0, 0.3) * stream.normal(size=answers.shape)
    sd, mean = np.exp(stream.uniform(np.log(0.01), np.log(300), size=2)) * (1, stream.choice([-1, 1]))
    y[:, 0], y[:, 1 : 1 + outputs] = -outputs, mean + sd * (answers + noise)
    return x, y
