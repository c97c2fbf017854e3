"""Splits that lists of class names say, as CIFAR-FS has them: ``splits/**/train.txt`` beside ``data/CLASS/``."""

import os
from collections.abc import Mapping
from pathlib import Path

from metasgd.data.images.files import ClassFiles, classes_in, names_in, raise_some
from metasgd.data.images.split_names import split_called
from metasgd.data.regular_file import read_regular
from metasgd.data.rng import SPLITS, Split
from metasgd.errors import UserError

LISTS, LIST = "splits", ".txt"
"""The folder of the lists, in which they may have one of their own, and their suffix."""
PLACES = ("data", "images")
"""The folders that the classes may be in, beside that one; otherwise they lie beside it themselves."""
MOST_BYTES = 2**24


def class_lists(root: Path) -> dict[Split, Path]:
    """The list of each split, or nothing if there is no folder that has all three.

    Raises:
        UserError: several folders have them, or one cannot be read.
    """
    top = root / LISTS
    if not os.path.isdir(top):
        return {}
    folders = [top, *(top / name for name in names_in(top) if os.path.isdir(top / name))]
    found = [lists for lists in map(_lists_in, folders) if len(lists) == len(SPLITS)]
    if len(found) > 1:
        named = " and ".join(lists["train"].parent.name for lists in found)
        raise UserError(
            f"{top}: {named} each have lists of the splits' classes. Leave those of one, and move the others"
        )
    return found[0] if found else {}


def listed_classes(root: Path, lists: Mapping[Split, Path]) -> tuple[dict[Split, list[ClassFiles]], str]:
    """The classes that each list names, a name in a line, and in words how many are in none.

    Raises:
        UserError: a list cannot be read, or names classes that are not there.
    """
    place = next((root / name for name in PLACES if os.path.isdir(root / name)), root)
    there = {c.name: c for c in classes_in(place)}
    named = {split: _read_list(path) for split, path in lists.items()}
    raise_some(
        [
            f"{lists[split]} names {name}, but {place} has no class of that name. Add its pictures, or take it off"
            " the list"
            for split, names in named.items()
            for name in names
            if name not in there
        ]
    )
    unused = len(there.keys() - {name for names in named.values() for name in names})
    left_out = f"{unused} of the {len(there)} classes in {place} are not used: no list in {LISTS} names them"
    return {split: [there[name] for name in names] for split, names in named.items()}, left_out if unused else ""


def _lists_in(folder: Path) -> dict[Split, Path]:
    found: dict[Split, Path] = {}
    for path in (folder / name for name in names_in(folder)):
        split = split_called(path.stem) if path.suffix.lower() == LIST else None
        if split is not None:
            found[split] = path
    return found


def _read_list(path: Path) -> list[str]:
    """The names in a list, sorted, each once."""
    try:
        lines = read_regular(path, MOST_BYTES).decode("utf-8-sig").splitlines()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}). Allow reading it") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8: save it as UTF-8 text, a class's name in each line") from error
    return sorted({line.strip().strip("/") for line in lines if line.strip()})
