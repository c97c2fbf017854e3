"""Which pictures there are and of what class: folders of classes, and CSV files of ``file,label``."""

import csv
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from metasgd.errors import UserError, refuse

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
FILE_COLUMNS, LABEL_COLUMN = ("file", "filename"), "label"
MOST_PROBLEMS = 10


@dataclass(frozen=True)
class ClassFiles:
    """The pictures of one class.

    Attributes:
        name: the class's folder, relative to where the search began, or its label.
        group: the folder that the class's folder lies in, likewise; empty at the top.
        files: in the order of their names, or of their rows.
    """

    name: str
    group: str
    files: tuple[Path, ...]


def pictures_in(folder: Path) -> list[Path]:
    """All pictures in a folder and its subfolders, hidden ones left out, sorted by path."""
    found = []
    with _reading(folder):
        for here, folders, files in os.walk(folder, onerror=_raise):
            folders[:] = sorted(f for f in folders if not f.startswith("."))
            found += [Path(here, f) for f in files if not f.startswith(".") and f.lower().endswith(SUFFIXES)]
    return sorted(found, key=lambda path: path.relative_to(folder).parts)


def classes_in(folder: Path) -> list[ClassFiles]:
    """The classes in a folder, sorted by name: each folder at any depth that holds pictures itself is one.

    Raises:
        UserError: the folder cannot be read, pictures lie in it outside any class, or it has none.
    """
    by_folder: dict[Path, list[Path]] = {}
    for path in pictures_in(folder):
        by_folder.setdefault(path.parent.relative_to(folder), []).append(path)
    if not by_folder:
        raise UserError(f"{folder}: no pictures ({', '.join(SUFFIXES)}) are in it. Put them in one subfolder per class")
    if Path() in by_folder:
        raise UserError(
            f"{folder}: {by_folder[Path()][0].name} lies beside the classes. Put every picture in the subfolder of its"
            " class"
        )
    return [
        ClassFiles(name.as_posix(), "" if name.parent == Path() else name.parent.as_posix(), tuple(files))
        for name, files in by_folder.items()
    ]


def read_table(table: Path, images: Path) -> list[tuple[Path, str | None]]:
    """The rows of a CSV file with the columns ``file`` (or ``filename``) and, if it has them, ``label``.

    Args:
        table: the CSV file, UTF-8, its first row the columns' names.
        images: the folder that its files are named relative to.

    Raises:
        UserError: it cannot be read, lacks a column or a value, or names files that are not there or named twice.
    """
    with _reading(table), table.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file, strict=True)
        columns = rows.fieldnames or []
        column = next((c for c in FILE_COLUMNS if c in columns), None)
        if column is None:
            raise UserError(
                f"{table}: its first row is {','.join(columns) or 'missing'}. Name the columns file (or filename) and"
                " label there"
            )
        found = [(row[column] or "", row.get(LABEL_COLUMN)) for row in rows]
    labelled = LABEL_COLUMN in columns
    times = Counter(name for name, _ in found)
    problems = [f"{table}: {name or 'an empty file name'} is named {n} times" for name, n in times.items() if n > 1]
    problems += [
        f"{table}, row {r}: {name or 'an empty file name'} has no label"
        for r, (name, label) in enumerate(found, start=2)
        if labelled and not label
    ]
    problems += [
        f"{table}, row {r}: {images / name} is not there"
        for r, (name, _) in enumerate(found, start=2)
        if not (images / name).is_file()
    ]
    if not found:
        problems = [f"{table}: it has no rows"]
    refuse(shortened(problems))
    return [(images / name, label) for name, label in found]


def classes_of_table(table: Path, images: Path) -> list[ClassFiles]:
    """The classes that a CSV file of ``file,label`` names, sorted by label.

    Raises:
        UserError: as ``read_table``, or it has no labels.
    """
    by_label: dict[str, list[Path]] = {}
    for path, label in read_table(table, images):
        if label is None:
            raise UserError(f"{table}: its first row names no column label. Add one with the class of each file")
        by_label.setdefault(label, []).append(path)
    return [ClassFiles(label, "", tuple(by_label[label])) for label in sorted(by_label)]


def labelled_pictures(place: Path) -> list[ClassFiles]:
    """The classes of a support set: a CSV file of ``file,label`` beside its pictures, or a folder of either a
    subfolder per class or nothing but one picture per class, whose name is the class.

    Raises:
        UserError: it is none of these.
    """
    if place.is_file():
        return classes_of_table(place, place.parent)
    pictures = pictures_in(place)
    if not pictures or any(path.parent != place for path in pictures):
        return classes_in(place)
    twice = [name for name, n in Counter(path.stem for path in pictures).items() if n > 1]
    if twice:
        raise UserError(
            f"{place}: two pictures are called {twice[0]}. Each is a class of its own there: rename one, or use"
            " a subfolder per class"
        )
    return [ClassFiles(path.stem, "", (path,)) for path in pictures]


def unlabelled_pictures(place: Path) -> list[Path]:
    """The pictures of a folder, by path, or those that a CSV file names, in its order.

    Raises:
        UserError: there are none.
    """
    found = [path for path, _ in read_table(place, place.parent)] if place.is_file() else pictures_in(place)
    if not found:
        raise UserError(f"{place}: no pictures ({', '.join(SUFFIXES)}) are in it. Give the folder that holds them")
    return found


def shortened(problems: Sequence[str]) -> list[str]:
    """The first of many problems, and how many more there are."""
    more = len(problems) - MOST_PROBLEMS
    return [*problems[:MOST_PROBLEMS], *([f"… and {more} more of this kind"] if more > 0 else [])]


def _raise(error: OSError) -> None:
    raise error


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a CSV file in UTF-8 ({error}). Save it as one") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}). Give one that is there") from error
