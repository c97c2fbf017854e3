"""Which pictures there are and of what class: folders of classes, and CSV files of ``file,label``."""

import csv
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from metasgd.errors import UserError, raise_problems

SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
COMPANIONS = (".txt", ".csv", ".json", ".md", ".xml", ".ini", ".db")
"""What may lie beside pictures without being meant as one."""
FILE_COLUMNS, LABEL_COLUMN = ("file", "filename"), "label"
SEPARATORS = {";": "';'", "\t": "tabs", "|": "'|'"}
"""Of columns, in what spreadsheets save as CSV and is not read: each in words."""
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


def files_in(folder: Path) -> list[Path]:
    """All files in a folder and its subfolders, linked ones too, hidden ones left out, sorted by path.

    Raises:
        UserError: the folder cannot be read, or a link in it leads to nothing.
    """
    with _reading(folder):
        found = sorted(_walk(folder, frozenset()), key=lambda path: path.relative_to(folder).parts)
    lost = [path for path in found if path.is_symlink() and not os.path.exists(path)]
    raise_problems(
        shortened(
            [f"{printable(p)}: a link to what is not there. Restore what it leads to, or remove it" for p in lost]
        )
    )
    return found


def pictures_in(folder: Path) -> list[Path]:
    """The pictures among ``files_in`` a folder.

    Raises:
        UserError: as ``files_in``, or the name of a picture, or of a folder that it is in, is not UTF-8.
    """
    return _pictures_among(files_in(folder), folder)


def _pictures_among(files: Iterable[Path], folder: Path) -> list[Path]:
    found = [path for path in files if path.name.lower().endswith(SUFFIXES)]
    foreign = [path for path in found if not _is_utf8(path.relative_to(folder))]
    raise_problems(
        shortened([f"{printable(p)}: its name is not UTF-8. Rename it, or the folder that it is in" for p in foreign])
    )
    return found


def validate_no_strays(files: Iterable[Path]) -> None:
    """Refuse what may be meant as a picture and is not read, so that none is left out without a word.

    Raises:
        UserError: names the files that are neither pictures nor among their harmless companions.
    """
    strays = [path for path in files if not path.name.lower().endswith(SUFFIXES + COMPANIONS)]
    raise_problems(
        shortened(
            [
                f"{printable(path)}: not of a format that is read ({', '.join(SUFFIXES)}). Save it as PNG or JPEG, or"
                " move it out of the folder"
                for path in strays
            ]
        )
    )


def classes_in(folder: Path) -> list[ClassFiles]:
    """The classes in a folder, sorted by name: each folder at any depth that holds pictures itself is one.

    Raises:
        UserError: the folder cannot be read, pictures lie in it outside any class, or it has none; or a class has
            files of a format that is not read.
    """
    return _classes_among(files_in(folder), folder)


def _classes_among(files: Sequence[Path], folder: Path) -> list[ClassFiles]:
    # what lies beside the classes, such as the archive that they came in, belongs to none
    validate_no_strays(path for path in files if path.parent != folder)
    by_folder: dict[Path, list[Path]] = {}
    for path in _pictures_among(files, folder):
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


def read_table(table: Path, images: Path, labelled: bool = True) -> list[tuple[Path, str | None]]:
    """The rows of a CSV file with the columns ``file`` (or ``filename``) and, if it has them, ``label``.

    Args:
        table: the CSV file, UTF-8, its first row the columns' names; spaces around its values do not count.
        images: the folder that its files are named relative to.
        labelled: whether labels are wanted; otherwise they are passed over, and may be empty.

    Raises:
        UserError: it cannot be read, lacks a column or a value, or names files that are not there or named twice.
    """
    with _reading(table), table.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file, strict=True, skipinitialspace=True)
        columns = rows.fieldnames = [name.strip() for name in rows.fieldnames or []]
        column = next((c for c in FILE_COLUMNS if c in columns), None)
        if column is None:
            raise UserError(f"{table}: {_wrong_header(columns)}")
        labels_wanted = labelled and LABEL_COLUMN in columns
        found = [
            ((row[column] or "").strip(), (row[LABEL_COLUMN] or "").strip() if labels_wanted else None) for row in rows
        ]
    problems = _named_twice(table, images, [name for name, _ in found])
    problems += [
        f"{table}, row {r}: {name or 'an empty file name'} has no label"
        for r, (name, label) in enumerate(found, start=2)
        if label == ""
    ]
    problems += [
        f"{table}, row {r}: {images / name} is not there"
        for r, (name, _) in enumerate(found, start=2)
        if not os.path.isfile(images / name)  # which is false, too, of names that no file can have
    ]
    if not found:
        problems = [f"{table}: it has no rows"]
    raise_problems(shortened(problems))
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
    if os.path.isfile(place):
        return classes_of_table(place, place.parent)
    files = files_in(place)
    validate_no_strays(files)
    pictures = _pictures_among(files, place)
    if not pictures or any(path.parent != place for path in pictures):
        return _classes_among(files, place)
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
        UserError: there are none, or files of a format that is not read among them.
    """
    if os.path.isfile(place):
        return [path for path, _ in read_table(place, place.parent, labelled=False)]
    files = files_in(place)
    validate_no_strays(files)
    found = _pictures_among(files, place)
    if not found:
        raise UserError(f"{place}: no pictures ({', '.join(SUFFIXES)}) are in it. Give the folder that holds them")
    return found


def shortened(problems: Sequence[str]) -> list[str]:
    """The first of many problems, and how many more there are."""
    more = len(problems) - MOST_PROBLEMS
    return [*problems[:MOST_PROBLEMS], *([f"… and {more} more of this kind"] if more > 0 else [])]


def printable(path: Path) -> str:
    """The path, with escapes for the bytes of its name that are not UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _is_utf8(path: Path) -> bool:
    return printable(path) == str(path)


def _walk(folder: Path, above: frozenset[str]) -> Iterator[Path]:
    """The files in a folder that are not hidden; ``above`` has the real paths of the folders on the way to it."""
    real = os.path.realpath(folder)
    if real in above:  # a link back, to what is being listed already
        return
    for name in os.listdir(folder):
        path = folder / name
        if name.startswith("."):
            continue
        if os.path.isdir(path):
            yield from _walk(path, above | {real})
        else:
            yield path


def _wrong_header(columns: Sequence[str]) -> str:
    header = ",".join(columns)
    for separator, in_words in SEPARATORS.items():
        if any(name.strip() in FILE_COLUMNS for name in header.split(separator)):
            return f"its columns are separated by {in_words}: save it with commas"
    return f"its first row is {header or 'missing'}. Name the columns file (or filename) and label there"


def _named_twice(table: Path, images: Path, names: Sequence[str]) -> list[str]:
    """A problem for each picture that several rows name, however each spells it."""
    spelt: dict[str, list[str]] = {}
    for name in names:
        spelt.setdefault(os.path.abspath(images / name), []).append(name)
    return [
        f"{table}: {own[0] or 'an empty file name'} is named {len(own)} times"
        + (f", as {' and '.join(dict.fromkeys(own))}" if len(set(own)) > 1 else "")
        for own in spelt.values()
        if len(own) > 1
    ]


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a CSV file in UTF-8 ({error}). Save it as one") from error
    except OSError as error:
        place = printable(Path(error.filename or path))
        raise UserError(f"{place} cannot be read ({error.strerror or error}). Give one that is there") from error
