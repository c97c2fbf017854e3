"""Which picture files there are in a folder, and the classes that its subfolders are."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from metasgd.errors import UserError, raise_problems

SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm")
COMPANIONS = (".txt", ".csv", ".json", ".md", ".xml", ".ini", ".db", ":zone.identifier", "thumbs.db:encryptable")
"""What may lie beside pictures without being meant as one."""
IGNORED = {
    *("@eadir", "@recycle", "@recently-snapshot", "@__thumb", "#recycle", "#snapshot"),  # disk stations
    *("$recycle.bin", "recycler", "system volume information", "lost+found"),  # file systems
    *("__macosx", "icon\r", "temporary items", "network trash folder"),  # macOS
    *("_vti_cnf", "__pycache__"),
}
"""Files and folders that systems put among pictures, by their names in small letters; hidden ones begin with a dot."""
INNER = "images"
"""A folder that some data sets have within each class's own."""
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
    """All files in a folder and its subfolders, linked ones too, sorted by path, without those of ``IGNORED`` names.

    Raises:
        UserError: the folder or some below it cannot be read, or links in it lead to nothing.
    """
    problems: list[str] = []
    try:
        listed = _walk(folder, os.listdir(folder), frozenset(), problems)
        found = sorted(listed, key=lambda path: path.relative_to(folder).parts)
    except OSError as error:
        raise UserError(
            f"{printable(folder)} cannot be read ({error.strerror or error}). Give one that is there"
        ) from error
    problems += [
        f"{printable(path)}: a link to what is not there. Restore what it leads to, or remove it"
        for path in found
        if path.is_symlink() and not os.path.exists(path)
    ]
    raise_some(problems)
    return found


def names_in(folder: Path) -> list[str]:
    """The names of what lies in a folder itself, sorted, without those of ``IGNORED``.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return sorted(name for name in os.listdir(folder) if not is_ignored(name))
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror or error}). Allow reading it") from error


def pictures_among(files: Iterable[Path], folder: Path) -> list[Path]:
    """The pictures among the files of a folder, by their suffixes.

    Raises:
        UserError: the name of one, or of a folder that it is in, is not UTF-8.
    """
    found = [path for path in files if path.name.lower().endswith(SUFFIXES)]
    raise_some(
        [
            f"{printable(path)}: its name is not UTF-8. Rename it, or the folder that it is in"
            for path in found
            if printable(path.relative_to(folder)) != str(path.relative_to(folder))
        ]
    )
    return found


def validate_no_strays(files: Iterable[Path]) -> None:
    """Refuse what may be meant as a picture and is not read, so that none is left out without a word.

    Raises:
        UserError: names the files that are neither pictures nor among their harmless companions.
    """
    raise_some(
        [
            f"{printable(path)}: not of a format that is read ({', '.join(SUFFIXES)}). Save it as PNG or JPEG, or"
            " move it out of the folder"
            for path in files
            if not path.name.lower().endswith(SUFFIXES + COMPANIONS)
        ]
    )


def classes_in(folder: Path) -> list[ClassFiles]:
    """The classes in a folder, sorted by name: each folder at any depth that holds pictures itself is one.

    Where a class's folder holds nothing but a folder ``images``, the pictures in that are the class's.

    Raises:
        UserError: the folder cannot be read, pictures lie in it outside any class, or it has none; or a class has
            files of a format that is not read.
    """
    return classes_among(files_in(folder), folder)


def classes_among(files: Sequence[Path], folder: Path) -> list[ClassFiles]:
    """The classes in a folder, as ``classes_in`` gives them, out of all its files.

    Raises:
        UserError: pictures lie outside any class, or there are none; or a class has files of a format that is not read.
    """
    # what lies beside the classes, such as the archive that they came in, belongs to none
    validate_no_strays(path for path in files if path.parent != folder)
    by_folder: dict[Path, list[Path]] = {}
    for path in pictures_among(files, folder):
        by_folder.setdefault(path.parent.relative_to(folder), []).append(path)
    if not by_folder:
        raise UserError(f"{folder}: no pictures ({', '.join(SUFFIXES)}) are in it. Put them in one subfolder per class")
    if Path() in by_folder:
        raise UserError(
            f"{folder}: {by_folder[Path()][0].name} lies beside the classes. Put every picture in the subfolder of its"
            " class"
        )
    below = Counter(parent for name in by_folder for parent in name.parents)
    found = []
    for name, own in by_folder.items():
        is_inner = name.name.lower() == INNER and below[name.parent] == 1 and name.parent not in by_folder
        named = name.parent if is_inner and name.parent != Path() else name
        group = "" if named.parent == Path() else named.parent.as_posix()
        found.append(ClassFiles(named.as_posix(), group, tuple(own)))
    return found


def is_ignored(name: str) -> bool:
    """Whether a file or folder is hidden, or a system's own among pictures."""
    return name.startswith(".") or name.lower() in IGNORED


def raise_some(problems: Sequence[str]) -> None:
    """Raise one ``UserError`` with the first of many problems and how many more there are, if there are any."""
    more = len(problems) - MOST_PROBLEMS
    raise_problems([*problems[:MOST_PROBLEMS], *([f"… and {more} more of this kind"] if more > 0 else [])])


def printable(path: Path) -> str:
    """The path, with escapes for the bytes of its name that are not UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _walk(folder: Path, names: Iterable[str], above: frozenset[str], problems: list[str]) -> Iterator[Path]:
    """The files in a folder of these names, and below it.

    Args:
        folder: where the names are.
        names: of files and folders.
        above: the real paths of the folders on the way to it.
        problems: what cannot be read below is added here.
    """
    real = os.path.realpath(folder)
    if real in above:  # a link back, to what is being listed already
        return
    for name in names:
        path = folder / name
        if is_ignored(name):
            continue
        if not os.path.isdir(path):
            yield path
            continue
        try:
            inside = os.listdir(path)
        except OSError as error:
            problems.append(
                f"{printable(path)}: cannot be read ({error.strerror or error}). Allow reading it, or move it away"
            )
        else:
            yield from _walk(path, inside, above | {real}, problems)
