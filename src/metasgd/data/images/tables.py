"""Tables that say which pictures there are and of what class: CSV files, and the annotations of Tiny ImageNet."""

import csv
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from metasgd.data.csv_cells import cell_text
from metasgd.data.images.files import ClassFiles, printable, raise_some
from metasgd.data.regular_file import read_regular
from metasgd.errors import UserError

FILE_COLUMNS, LABEL_COLUMN = ("file", "filename"), "label"
SEPARATORS = {";": "';'", "\t": "tabs", "|": "'|'"}
"""Of columns, in what spreadsheets save as CSV and is not read: each in words."""
ANNOTATIONS, ANNOTATED = "val_annotations.txt", "images"
"""In Tiny ImageNet's ``val/``: rows of file, class and a box, parted by tabs, and the folder of these files."""
MOST_BYTES = 2**28

Row = tuple[str, str | None]


def read_table(table: Path, images: Path, labelled: bool = True) -> list[tuple[Path, str | None]]:
    """The rows of a CSV file with the columns ``file`` (or ``filename``) and, if it has them, ``label``.

    Args:
        table: the CSV file, UTF-8, its first row the columns' names; spaces around its values do not count.
        images: the folder that its files are named relative to.
        labelled: whether labels are wanted; otherwise they are passed over, and may be empty.

    Raises:
        UserError: it cannot be read, lacks a column or a value, or names files that are not there or named twice.
    """
    with _read(table) as text:
        rows = csv.DictReader(text, strict=True, skipinitialspace=True)
        columns = rows.fieldnames = [name.strip() for name in rows.fieldnames or []]
        column = next((c for c in FILE_COLUMNS if c in columns), None)
        if column is None:
            raise UserError(f"{table}: {_wrong_header(columns)}")
        labels_wanted = labelled and LABEL_COLUMN in columns
        found = [(_cell(row[column]), _cell(row[LABEL_COLUMN]) if labels_wanted else None) for row in rows]
    return _found(table, images, found, first=2)


def _cell(value: str | None) -> str:
    return cell_text((value or "").strip())


def classes_of_table(table: Path, images: Path) -> list[ClassFiles]:
    """The classes that a CSV file of ``file,label`` names, sorted by label.

    Raises:
        UserError: as ``read_table``, or it has no labels.
    """
    return _by_label(table, read_table(table, images))


def annotated_classes(folder: Path) -> list[ClassFiles]:
    """The classes of a folder with Tiny ImageNet's annotations, sorted by name.

    Raises:
        UserError: they cannot be read, lack a value, or name files that are not there or named twice.
    """
    table = folder / ANNOTATIONS
    with _read(table) as text:
        rows = [(row[0], row[1] if len(row) > 1 else "") for row in csv.reader(text, delimiter="\t") if row]
    return _by_label(table, _found(table, folder / ANNOTATED, rows, first=1))


def _by_label(table: Path, rows: Sequence[tuple[Path, str | None]]) -> list[ClassFiles]:
    by_label: dict[str, list[Path]] = {}
    for path, label in rows:
        if label is None:
            raise UserError(f"{table}: its first row names no column label. Add one with the class of each file")
        by_label.setdefault(label, []).append(path)
    return [ClassFiles(label, "", tuple(by_label[label])) for label in sorted(by_label)]


def _found(table: Path, images: Path, rows: Sequence[Row], first: int) -> list[tuple[Path, str | None]]:
    """The files that rows name, with their labels; the rows are counted from ``first``."""
    problems = _named_twice(table, images, [name for name, _ in rows])
    problems += [
        f"{table}, row {r}: {name or 'an empty file name'} has no label"
        for r, (name, label) in enumerate(rows, first)
        if label == ""
    ]
    problems += [
        f"{table}, row {r}: {images / name} is not there"
        for r, (name, _) in enumerate(rows, first)
        if not os.path.isfile(images / name)  # which is false, too, of names that no file can have
    ]
    raise_some(problems if rows else [f"{table}: it has no rows"])
    return [(images / name, label) for name, label in rows]


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
def _read(table: Path) -> Iterator[io.StringIO]:
    try:
        yield io.StringIO(read_regular(table, MOST_BYTES).decode("utf-8-sig"), newline="")
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{table}: not a CSV file in UTF-8 ({error}). Save it as one") from error
    except OSError as error:
        raise UserError(
            f"{printable(table)} cannot be read ({error.strerror or error}). Give one that is there"
        ) from error
