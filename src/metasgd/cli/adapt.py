"""``adapt``: learn the classes of a few pictures, and predict those of others."""

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from metasgd.cli.adapt_learner import choose, given_learner, scaled, together
from metasgd.cli.adapt_words import loss_in_words, show_rates, support_in_words
from metasgd.data.csv_cells import csv_cell
from metasgd.data.images.decoding import PictureForm, read_pictures
from metasgd.data.images.files import ClassFiles
from metasgd.data.images.layouts import labelled_pictures, unlabelled_pictures
from metasgd.data.images.polarity import Polarity, blank_in_words, ink_of, polarity_in_words
from metasgd.errors import UserError, first_line, raise_problems, too_small
from metasgd.learner.adapted_learner import AdaptedLearner
from metasgd.learner.ensemble import AdaptedEnsemble
from metasgd.learner.meta_learner import MetaLearner
from metasgd.nn.export import as_onnx, as_program, validate_onnx_installed
from metasgd.reporting.text import printable
from metasgd.runs.outputs import validate_output, write_output

COLUMNS = ("file", "label", "probability")
FORMATS = (".pt", ".onnx", ".pt2")
BATCH, VALUES = 256, 2**22  # pictures predicted at a time, and their pixels in all channels
DOUBTFUL = 3
"""The exit code of predictions that are no better than chance."""

Found = TypeVar("Found")


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


def adapt(
    support: str,
    query: str,
    output: str,
    ckpt_path: str | None = None,
    backbone: str | None = None,
    weights: str | None = None,
    save: str | None = None,
    inner_steps: int | None = None,
    transductive: bool = False,
    polarity: Polarity = "detect",
    trust_checkpoint: bool = False,
) -> int:
    """Learn the classes of a few labelled pictures, and predict the classes of others.

    By leave-one-out on the labelled pictures, the checkpoint's inner steps are compared to nearest centroids of its
    features, and what predicts more of them right is used. Exit code 3: everything is written, but that is no better
    than chance.

    Args:
        support: the labelled pictures: a folder with a subfolder per class, or with one picture per class and
            nothing else, or a CSV file of file,label. Classes may have different numbers of pictures.
        query: the pictures to predict: a folder, or a CSV file with a column file.
        output: the CSV file to write: file,label,probability and a column for each class, in the order of the files.
        ckpt_path: a checkpoint that fit wrote; or the name of one that comes with metasgd, as omniglot; or several with
            commas between, whose probabilities are averaged.
        backbone: in place of a checkpoint, a pretrained network of torchvision or timm, as resnet18: pictures are
            classified by the nearest centroid of its features.
        weights: of the backbone: a file, or the library's name for them; by default those it recommends, downloaded.
        save: a file for the adapted network, in the format of its suffix: .pt (a state_dict with its class
            names), .onnx, or .pt2 (torch.export).
        inner_steps: also beyond those of training; by default as many as the checkpoint was evaluated with.
        transductive: let BatchNorm look at all the query pictures together, as in published figures; otherwise
            they do not influence each other.
        polarity: of drawings: detect from the support pictures whether the ink is light or dark, and exchange the two
            if the checkpoint was trained on the other; or take them as the same or the opposite.
        trust_checkpoint: import any class that the checkpoint names, which runs code: only where you trust its maker.
            Without it, a checkpoint of your own may name any, another those of metasgd, torch, torchvision, lightning
            and timm.
    """
    problems = too_small(("inner_steps", inner_steps, 0), where="--")
    if Path(output).suffix.lower() != ".csv":
        problems.append(f"--output is {output}: a name that ends in .csv is needed")
    suffix = None if save is None else Path(save).suffix.lower()
    if suffix is not None and suffix not in FORMATS:
        problems.append(f"--save is {save}: a name that ends in {', '.join(FORMATS)} is needed")
    raise_problems(problems)
    if suffix == ".onnx":
        validate_onnx_installed()
    given = given_learner(ckpt_path, backbone, weights, inner_steps, trust_checkpoint)
    classes = _found("support", support, labelled_pictures)
    asked = _found("query", query, unlabelled_pictures)
    raise_problems(_unfit_classes(support, classes))
    read = (
        [Path(place) for place in (*given.files, support, query)] + [path for c in classes for path in c.files] + asked
    )
    validate_output(Path(output), "--output", read)
    if save is not None:
        validate_output(Path(save), "--save", read)
    pictures, labels = _read_support(classes, given.form)
    blank = blank_in_words([path for c in classes for path in c.files], pictures)
    raise_problems([f"--support is {support}: {problem}" for problem in blank])
    inks = [ink_of(picture) for picture in pictures] if given.ink else []
    differ = sum(ink != given.ink for ink in inks)
    inverted = polarity == "opposite" or (polarity == "detect" and 2 * differ > len(inks))
    conversion = Conversion(given.form, inverted)
    support_x = 255 - pictures if inverted else pictures

    choices = [choose(learner, support_x, labels, inner_steps) for learner in given.learners]
    learners = [choice.best.learner for choice in choices]
    if backbone is not None:
        learners = [scaled(learner, support_x, labels) for learner in learners]
    members = [
        learner.adapt(support_x, labels, choice.best.inner_steps)
        for learner, choice in zip(learners, choices, strict=True)
    ]
    adapted = members[0] if len(members) == 1 else AdaptedEnsemble(tuple(members))
    verdict = choices[0] if len(members) == 1 else together(choices, labels)
    network = None if suffix is None else _network(suffix, adapted, learners, conversion)
    # paths may have what rich takes for markup or emoji; sentences are for the reader, or the pipe, to wrap
    show = Console(markup=False, emoji=False, soft_wrap=True)
    show.print(support_in_words(classes, conversion.form))
    if given.ink:
        show.print(polarity_in_words(given.ink, len(inks) - differ, len(inks), inverted, polarity))
    for file, learner, choice, member in zip(given.files, learners, choices, members, strict=True):
        if len(members) > 1:
            show.print(printable(f"{file}:"))
        show.print(loss_in_words(member))
        for line in choice.lines:
            show.print(line)
        if len(members) == 1:
            show_rates(show, learner, member, support_x, labels, choice.best.inner_steps)
    if len(members) > 1:
        for line in verdict.lines:
            show.print(line)
    table = _predictions(adapted, asked, Path(query), conversion, transductive)
    if save is not None and network is not None:
        write_output(Path(save), network, "--save")
    write_output(Path(output), table.encode(), "--output")
    n = len(asked)
    show.print(printable(f"written: {output}, with the predictions for {n} picture{'s' * (n != 1)}"))
    if save is not None:
        show.print(printable(f"written: {save}, the adapted network"))
    return DOUBTFUL if verdict.doubtful else 0


def _found(option: str, place: str, find: Callable[[Path], Found]) -> Found:
    try:
        return find(Path(place))
    except UserError as error:
        raise error.after(f"--{option}: ") from error


def _unfit_classes(support: str, classes: Sequence[ClassFiles]) -> list[str]:
    problems = [
        f"--support is {support}: a class is called {c.name}, as a column of --output is. Rename it"
        for c in classes
        if c.name in COLUMNS
    ]
    if len(classes) < 2:
        problems.append(
            f"--support is {support}: it has 1 class, {classes[0].name}, and at least 2 are needed to tell apart. Add"
            " the pictures of another"
        )
    return problems


def _read_support(classes: Sequence[ClassFiles], form: PictureForm) -> tuple[NDArray[np.uint8], NDArray[np.str_]]:
    """``[X, C, height, width]`` and ``[X]``."""
    paths = [path for c in classes for path in c.files]
    return np.stack(list(read_pictures(paths, form))), np.array([c.name for c in classes for _ in c.files])


def _predictions(
    adapted: AdaptedLearner | AdaptedEnsemble,
    asked: Sequence[Path],
    query: Path,
    conversion: Conversion,
    transductive: bool,
) -> str:
    """The CSV file, a row for each picture asked about, in their order."""
    assert adapted.classes_ is not None
    folder = query.parent if query.is_file() else query
    file = io.StringIO(newline="")
    table = csv.writer(file)
    table.writerow([*COLUMNS, *map(csv_cell, adapted.classes_)])
    paths, pictures = iter(asked), conversion.read(asked)
    form = conversion.form
    at_once = max(1, min(BATCH, VALUES // (form.channels * form.height * form.width)))
    while batch := list(islice(pictures, len(asked) if transductive else at_once)):
        for row in adapted.predict_proba(np.stack(batch), transductive):
            likeliest = row.argmax()
            figures = [f"{p:.6f}" for p in (row[likeliest], *row)]
            path = next(paths)
            name = path.relative_to(folder) if path.is_relative_to(folder) else path
            table.writerow([csv_cell(name.as_posix()), csv_cell(adapted.classes_[likeliest]), *figures])
    return file.getvalue()


def _network(
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
