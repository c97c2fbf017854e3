"""The data of the workloads: the project's letters, and generators of (seed, split, number of the example)."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from metasgd.data.glyphs.source import Glyphs
from metasgd.data.problems import Examples, ManyClasses
from metasgd.data.rng import Split, task_stream
from metasgd.supervised.suite.languages import LANGUAGES, Language

Drawn = TypeVar("Drawn")
Array = NDArray[np.float64]
TEACHER = 2**40
"""The number of the stream that a teacher is drawn from; examples have smaller ones."""
SIZES: dict[Split, int] = {"train": 4000, "val": 600, "test": 1200}
"""Examples of what is generated, where nothing else is said."""


@dataclass(frozen=True)
class Letters:
    """Printed letters as classes, or to be reproduced.

    Attributes:
        seed: of the drawings.
        split: whose scripts.
        n_classes: the first so many letters.
        reproduce: the targets are the pixels ``[M, pixels]``, from 0 to 1, and not the letters' numbers.
        drawings: of each letter; 20 % each are held out for validation and for test.
    """

    seed: int
    split: Split
    n_classes: int
    reproduce: bool = False
    drawings: int = 40

    def examples(self, cache_dir: Path) -> dict[Split, Examples]:
        source = Glyphs(drawings_per_class=self.drawings, seed=self.seed)
        found = ManyClasses(source, self.split, self.n_classes).examples(cache_dir, cache_dir)
        if not self.reproduce:
            return found
        return {split: Examples(own.x, own.x.flatten(1).float() / 255) for split, own in found.items()}


@dataclass(frozen=True)
class Table:
    """Rows of numbers, and what a random network of one hidden layer makes of them.

    Attributes:
        seed: of teacher and rows.
        n_features: numbers in a row, of standard deviations from about 0.3 to 3; the last quarter says nothing.
        n_classes: the largest of so many outputs is the class, but for a twentieth at random; None for regression.
        mean: of the targets of a regression.
        sd: their standard deviation, noise of a tenth of it left out.
        rows: in training; those held out are as many as elsewhere.
    """

    seed: int
    n_features: int
    n_classes: int | None = None
    mean: float = 0.0
    sd: float = 1.0
    rows: int = 4000

    def examples(self, cache_dir: Path) -> dict[Split, Examples]:
        teacher = task_stream(self.seed, "train", TEACHER)
        scales = np.exp(teacher.uniform(np.log(0.3), np.log(3), self.n_features))
        used = np.arange(self.n_features) < self.n_features - self.n_features // 4
        first = teacher.normal(size=(self.n_features, 32)) * used[:, None] / np.sqrt(used.sum())
        second = teacher.normal(size=(32, self.n_classes or 1)) / np.sqrt(32)
        typical = np.tanh(2 * teacher.normal(size=(4096, self.n_features)) @ first) @ second
        middle, spread = typical.mean(axis=0), typical.std(axis=0)

        def row(stream: np.random.Generator) -> tuple[Array, Array, Array]:
            return stream.normal(size=self.n_features), stream.normal(size=1), stream.random(2)

        made: dict[Split, Examples] = {}
        for split, n in (SIZES | {"train": self.rows}).items():
            z, noise, chance = (np.stack(part) for part in zip(*_drawn(self.seed, split, n, row), strict=True))
            outputs = (np.tanh(2 * z @ first) @ second - middle) / spread
            if self.n_classes is None:
                y = torch.from_numpy(self.mean + self.sd * (outputs + 0.1 * noise)).float()
            else:
                at_random = (chance[:, 1] * self.n_classes).astype(np.int64)
                y = torch.from_numpy(np.where(chance[:, 0] < 0.05, at_random, outputs.argmax(axis=1)))
            made[split] = Examples(torch.from_numpy(z * scales).float(), y)
        return made


@dataclass(frozen=True)
class Textures:
    """Colour pictures ``[3, size, size]`` of waves: a class is their directions and colours; phases and noise vary.

    Attributes:
        seed: of classes and pictures.
        n_classes: as many textures.
        size: height and width in pixels.
        noise: standard deviation, beside waves of about 1.
    """

    seed: int
    n_classes: int
    size: int = 16
    noise: float = 1.0

    def examples(self, cache_dir: Path) -> dict[Split, Examples]:
        teacher = task_stream(self.seed, "train", TEACHER)
        waves = teacher.integers(-3, 4, size=(self.n_classes, 3, 2))
        colours = teacher.normal(size=(self.n_classes, 3, 3)) / np.sqrt(3)
        places = np.stack(np.meshgrid(*[2 * np.pi * np.arange(self.size) / self.size] * 2, indexing="ij"))

        def picture(stream: np.random.Generator) -> tuple[Array, int]:
            c = int(stream.integers(self.n_classes))
            phases = stream.uniform(0, 2 * np.pi, 3)
            found = np.sin(np.tensordot(waves[c], places, 1) + phases[:, None, None])
            noise = self.noise * stream.normal(size=(3, self.size, self.size))
            return stream.uniform(0.5, 1.5) * np.tensordot(colours[c].T, found, 1) + noise, c

        made: dict[Split, Examples] = {}
        for split, n in SIZES.items():
            x, y = zip(*_drawn(self.seed, split, n, picture), strict=True)
            made[split] = Examples(torch.from_numpy(np.stack(x)).float(), torch.tensor(y))
        return made


@dataclass(frozen=True)
class Text:
    """Lines of a formal language: at every place the next symbol is to be predicted.

    Attributes:
        seed: of the lines.
        language: a name in ``LANGUAGES``.
    """

    seed: int
    language: Literal["sums", "differences", "brackets"]

    def examples(self, cache_dir: Path) -> dict[Split, Examples]:
        language: Language = LANGUAGES[self.language]
        made: dict[Split, Examples] = {}
        for split, n in SIZES.items():
            numbers = [[language.symbols.index(c) for c in line] for line in _drawn(self.seed, split, n, language.line)]
            lines = torch.tensor(numbers)
            made[split] = Examples(lines[:, :-1].contiguous(), lines[:, 1:].contiguous())
        return made


def _drawn(seed: int, split: Split, n: int, draw: Callable[[np.random.Generator], Drawn]) -> list[Drawn]:
    return [draw(task_stream(seed, split, index)) for index in range(n)]
