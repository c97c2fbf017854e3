"""``adapt``: learn the classes of a few pictures, and predict those of others."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from metasgd.cli.adapt_choice import choose, together
from metasgd.cli.adapt_learner import given_learner
from metasgd.cli.adapt_output import BETWEEN, SET, UNKNOWN, Conversion, Doubt, network_file, predictions
from metasgd.cli.adapt_words import doubt_in_words, loss_in_words, show_rates, support_in_words, views_in_words
from metasgd.data.images.decoding import read_pictures
from metasgd.data.images.files import ClassFiles
from metasgd.data.images.layouts import labelled_pictures, unlabelled_pictures
from metasgd.data.images.polarity import Polarity, blank_in_words, ink_of, polarity_in_words
from metasgd.data.transforms.views import MOST_VIEWS, support_views
from metasgd.errors import UserError, counted, raise_problems, too_large, too_small
from metasgd.learner.ensemble import AdaptedEnsemble
from metasgd.learner.prediction_sets import rank_of_coverage, rank_of_unknown
from metasgd.nn.export import validate_onnx_installed
from metasgd.reporting.text import printable
from metasgd.runs.outputs import validate_output, write_output

FORMATS = (".pt", ".onnx", ".pt2")
DOUBTFUL = 3
"""The exit code of predictions that are no better than chance."""


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
    coverage: float | None = None,
    unknown: float | None = None,
    eval_views: int = 1,
    trust_checkpoint: bool = False,
) -> int:
    """Learn the classes of a few labelled pictures, and predict the classes of others.

    By leave-one-out on the labelled pictures, the checkpoint's inner steps, a linear probe on the network's features
    (unless BatchNorm mixes pictures) and nearest centroids of these are compared, and what predicts most of them right
    is used; of equals, the first of these. Exit code 3: everything is written, but that is no better than chance.

    Args:
        support: the labelled pictures: a folder with a subfolder per class, or with one picture per class and
            nothing else, or a CSV file of file,label. Classes may have different numbers of pictures.
        query: the pictures to predict: a folder, or a CSV file with a column file.
        output: the CSV file to write: file,label,probability and a column for each class, in the order of the files.
        ckpt_path: a checkpoint that fit wrote; or the name of one that comes with metasgd, as omniglot; or several with
            commas between, whose probabilities are averaged.
        backbone: in place of a checkpoint, a pretrained network of torchvision or timm, as resnet18: pictures are
            classified by nearest centroids of its features, or by a linear probe.
        weights: of the backbone: a file, or the library's name for them; by default those it recommends, downloaded.
        save: a file for the adapted network, in the format of its suffix: .pt (a state_dict with its class
            names), .onnx, or .pt2 (torch.export).
        inner_steps: also beyond those of training; by default as many as the checkpoint was evaluated with.
        transductive: let BatchNorm look at all the query pictures together, as in published figures; otherwise
            they do not influence each other.
        polarity: of drawings: detect from the support pictures whether the ink is light or dark, and exchange the two
            if the checkpoint was trained on the other; or take them as the same or the opposite.
        coverage: as 0.9: a column ``set`` has, of each picture, the classes among which is the true one for that
            share of pictures like the labelled ones.
        unknown: as 0.05: label a picture ``unknown`` that is unlike every class, such that at most that share of
            pictures of the classes are.
        eval_views: V: adapt to the labelled pictures as they are and V − 1 times distorted at random, each by itself,
            and average the probabilities; V times the work.
        trust_checkpoint: import any class that the checkpoint names, which runs code: only where you trust its maker.
            Without it, a checkpoint of your own may name any, another those of metasgd, torch, torchvision, lightning
            and timm.
    """
    problems = too_small(("inner_steps", inner_steps, 0), ("eval_views", eval_views, 1), where="--")
    problems += [f"--{said}" for said in too_large(("eval_views", eval_views, MOST_VIEWS))]
    if Path(output).suffix.lower() != ".csv":
        problems.append(f"--output is {output}: a name that ends in .csv is needed")
    suffix = None if save is None else Path(save).suffix.lower()
    if suffix is not None and suffix not in FORMATS:
        problems.append(f"--save is {save}: a name that ends in {', '.join(FORMATS)} is needed")
    compares = coverage is not None or unknown is not None
    if transductive and compares:
        problems.append(
            "--transductive is true, so that query pictures influence each other, and --coverage and --unknown compare"
            " them to support pictures that were predicted one by one: leave one of them out"
        )
    if eval_views > 1 and compares:
        problems.append(
            f"--eval_views is {eval_views}, so that predictions are means over views, and --coverage and --unknown"
            " compare them to support pictures that were predicted without: leave one of them out"
        )
    raise_problems(problems)
    if suffix == ".onnx":
        validate_onnx_installed()
    given = given_learner(ckpt_path, backbone, weights, inner_steps, trust_checkpoint)
    with _naming("--support: "):
        classes = labelled_pictures(Path(support))
    with _naming("--query: "):
        asked = unlabelled_pictures(Path(query))
    files = [path for c in classes for path in c.files]
    doubt = Doubt(None, coverage, unknown)
    raise_problems(_unfit_classes(support, classes, doubt))
    n_left_out = sum(len(c.files) for c in classes if len(c.files) > 1)
    with _naming("--"):
        if coverage is not None:
            rank_of_coverage(coverage, n_left_out)
        if unknown is not None:
            rank_of_unknown(unknown, n_left_out)
    read = [*(Path(place) for place in (*given.files, support, query)), *files, *asked]
    validate_output(Path(output), "--output", read)
    if save is not None:
        validate_output(Path(save), "--save", read)
    with _naming("--support: "):
        pictures = np.stack(list(read_pictures(files, given.form)))
    labels = np.array([c.name for c in classes for _ in c.files])
    raise_problems([f"--support is {support}: {problem}" for problem in blank_in_words(files, pictures)])
    inks = [ink_of(picture) for picture in pictures] if given.ink else []
    differ = sum(ink != given.ink for ink in inks)
    inverted = polarity == "opposite" or (polarity == "detect" and 2 * differ > len(inks))
    conversion = Conversion(given.form, inverted)
    support_x = 255 - pictures if inverted else pictures

    choices = [choose(learner, support_x, labels, inner_steps, backbone is not None) for learner in given.learners]
    learners = [choice.best.learner for choice in choices]
    first, *others = support_views(torch.from_numpy(support_x), eval_views, given.ink)
    best = [choice.best for choice in choices]
    members = [one.learner.adapt(first, labels, one.inner_steps, one.features) for one in best]
    members += [one.learner.adapt(view, labels, one.inner_steps) for view in others for one in best]
    adapted = members[0] if len(members) == 1 else AdaptedEnsemble(tuple(members))
    verdict = choices[0] if len(choices) == 1 else together(choices, labels)
    doubt = replace(doubt, left_out=verdict.left_out)
    with _naming("--query: "):
        found = predictions(adapted, asked, Path(query), conversion, transductive, doubt)
    network = None if suffix is None else network_file(suffix, adapted, [*learners] * eval_views, conversion)
    # paths may have what rich takes for markup or emoji; sentences are for the reader, or the pipe, to wrap
    show = Console(markup=False, emoji=False, soft_wrap=True)
    show.print(support_in_words(classes, conversion.form))
    if given.ink:
        show.print(polarity_in_words(given.ink, len(inks) - differ, len(inks), inverted, polarity))
    for file, learner, choice, member in zip(given.files, learners, choices, members, strict=False):
        if len(choices) > 1:
            show.print(printable(f"{file}:"))
        show.print(loss_in_words(member))
        for line in choice.lines:
            show.print(line)
        if len(choices) == 1:
            show_rates(show, learner, member, support_x, labels, choice.best.inner_steps)
    if len(choices) > 1:
        for line in verdict.lines:
            show.print(line)
    if eval_views > 1:
        show.print(views_in_words(eval_views))
    for line in doubt_in_words(doubt, found, len(asked)):
        show.print(line)
    if save is not None and network is not None:
        write_output(Path(save), network, "--save")
    write_output(Path(output), found.table.encode(), "--output")
    n = len(asked)
    show.print(printable(f"written: {output}, with the predictions for {counted(n, 'picture')}"))
    if save is not None:
        show.print(printable(f"written: {save}, the adapted network"))
    return DOUBTFUL if verdict.doubtful else 0


@contextmanager
def _naming(option: str) -> Iterator[None]:
    """Put the option before what is wrong with it."""
    try:
        yield
    except UserError as error:
        raise error.after(option) from error


def _unfit_classes(support: str, classes: Sequence[ClassFiles], doubt: Doubt) -> list[str]:
    problems = [
        f"--support is {support}: a class is called {c.name}, as a column of --output is. Rename it"
        for c in classes
        if c.name in doubt.columns
    ]
    problems += [
        f"--support is {support}: a class is called {UNKNOWN}, as pictures of no class are by --unknown. Rename it"
        for c in classes
        if c.name == UNKNOWN and doubt.unknown is not None
    ]
    problems += [
        f"--support is {support}: a class is called {c.name}, and {BETWEEN} is between the classes in the column {SET}."
        " Rename it"
        for c in classes
        if BETWEEN in c.name and doubt.coverage is not None
    ]
    if len(classes) < 2:
        problems.append(
            f"--support is {support}: it has 1 class, {classes[0].name}, and at least 2 are needed to tell apart. Add"
            " the pictures of another"
        )
    return problems
