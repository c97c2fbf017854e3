"""What ``adapt`` writes: the table of predictions, and the adapted network."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from metasgd.data.csv_cells import csv_cell
from metasgd.data.images.decoding import PictureForm, read_pictures
from metasgd.errors import UserError, first_line
from metasgd.learner.adapted_learner import AdaptedLearner
from metasgd.learner.ensemble import AdaptedEnsemble
from metasgd.learner.meta_learner import MetaLearner
from metasgd.learner.prediction_sets import LeftOut
from metasgd.nn.export import as_onnx, as_program

COLUMNS = ("file", "label", "probability")
SET, BETWEEN, UNKNOWN = "set", "|", "unknown"
"""The column of prediction sets, what is between their classes, and the label of a picture of no class."""
BATCH, VALUES = 256, 2**22  # pictures predicted at a time, and their pixels in all channels


@dataclass(frozen=True)
class Conversion:
    """What became of a picture file before the network saw it.

    Attributes:
        form: its size, channels, and how another aspect ratio was met.
        inverted: whether light and dark were exchanged.
    """

    form: PictureForm
    inverted: bool

    def read(self, paths: Sequence[Path]) -> Iterator[NDArray[np.uint8]]:
        for picture in read_pictures(paths, self.form):
            yield 255 - picture if self.inverted else picture


@dataclass(frozen=True)
class Doubt:
    """How far predictions are to be trusted, by the support pictures that were left out.

    Attributes:
        left_out: what was predicted of them; None if no class has two.
        coverage: the share of sets that is to hold the true class; None for no sets.
        unknown: the share of pictures of the classes that may be called unknown; None for no such label.
    """

    left_out: LeftOut | None
    coverage: float | None
    unknown: float | None

    @property
    def columns(self) -> tuple[str, ...]:
        return (*COLUMNS, SET) if self.coverage is not None else COLUMNS

    def labels(self, outputs: NDArray[np.float32], classes: Sequence[str]) -> list[str]:
        likeliest = [classes[c] for c in outputs.argmax(axis=1)]
        if self.unknown is None or self.left_out is None:
            return likeliest
        of_none = self.left_out.unknown(outputs, self.unknown)
        return [UNKNOWN if none else label for none, label in zip(of_none, likeliest, strict=True)]

    def sets(self, outputs: NDArray[np.float32], classes: Sequence[str]) -> list[list[str]]:
        """The classes of each picture's set, the likeliest first; none without ``coverage``."""
        if self.coverage is None or self.left_out is None:
            return [[] for _ in outputs]
        found = self.left_out.sets(outputs, self.coverage)
        orders = (-outputs).argsort(axis=1, kind="stable")
        return [[classes[c] for c in order if row[c]] for order, row in zip(orders, found, strict=True)]


@dataclass(frozen=True)
class Predictions:
    """The predictions of all pictures.

    Attributes:
        table: the CSV file, a row for each picture asked about, in their order.
        n_unknown: how many pictures are labelled unknown.
        mean_set: classes in a prediction set, on average.
    """

    table: str
    n_unknown: int
    mean_set: float


def predictions(
    adapted: AdaptedLearner | AdaptedEnsemble,
    asked: Sequence[Path],
    query: Path,
    conversion: Conversion,
    transductive: bool,
    doubt: Doubt,
) -> Predictions:
    """Predict the pictures, some at a time.

    Args:
        adapted: what predicts.
        asked: the pictures.
        query: the folder or table that they are of.
        conversion: what becomes of a picture first.
        transductive: let BatchNorm look at all of them together.
        doubt: which further columns and labels there are.
    """
    assert adapted.classes_ is not None
    classes = [str(c) for c in adapted.classes_]
    folder = query.parent if query.is_file() else query
    file = io.StringIO(newline="")
    table = csv.writer(file)
    table.writerow([*doubt.columns, *map(csv_cell, classes)])
    paths, pictures = iter(asked), conversion.read(asked)
    form = conversion.form
    at_once = max(1, min(BATCH, VALUES // (form.channels * form.height * form.width)))
    n_unknown = in_sets = 0
    while batch := list(islice(pictures, len(asked) if transductive else at_once)):
        outputs = adapted.decision_function(np.stack(batch), transductive)
        labels, sets = doubt.labels(outputs, classes), doubt.sets(outputs, classes)
        probabilities = torch.from_numpy(outputs).softmax(dim=1).tolist()
        for label, own, row in zip(labels, sets, probabilities, strict=True):
            path = next(paths)
            name = path.relative_to(folder) if path.is_relative_to(folder) else path
            of_set = [csv_cell(BETWEEN.join(own))] if doubt.coverage is not None else []
            figures = [f"{p:.6f}" for p in (max(row), *row)]
            table.writerow([csv_cell(name.as_posix()), csv_cell(label), figures[0], *of_set, *figures[1:]])
            n_unknown, in_sets = n_unknown + (label == UNKNOWN), in_sets + len(own)
    return Predictions(file.getvalue(), n_unknown if doubt.unknown is not None else 0, in_sets / len(asked))


def network_file(
    suffix: str, adapted: AdaptedLearner | AdaptedEnsemble, learners: Sequence[MetaLearner], conversion: Conversion
) -> bytes:
    """The file of the adapted network, in the format of ``suffix``."""
    assert adapted.classes_ is not None
    about: dict[str, Any] = {
        "classes": adapted.classes_.tolist(),
        "input": {"shape": list(adapted.input_shape), "range": [0.0, 1.0]},
        "pictures": {**asdict(conversion.form), "inverted": conversion.inverted},
    }
    if suffix == ".pt":
        file = io.BytesIO()
        networks = [learner.config["model"]["network"] for learner in learners]
        made_of = {
            "state_dict": adapted.network.state_dict(),
            "network": networks[0] if len(networks) == 1 else networks,
        }
        torch.save({**made_of, **about}, file)
        return file.getvalue()
    export = as_onnx if suffix == ".onnx" else as_program
    metadata = {name: json.dumps(value) for name, value in about.items()}
    try:
        return export(adapted.network, adapted.example(), metadata)
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:  # torch's exporters have many
        raise UserError(
            f"--save asks for {suffix}, but torch cannot export this network so ({first_line(error)}): save it as .pt"
        ) from error
