"""How pictures lie in a folder: which of its subfolders, or tables, are the splits, and which the classes."""

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from metasgd.data.images.class_lists import class_lists, listed_classes
from metasgd.data.images.files import (
    SUFFIXES,
    ClassFiles,
    classes_among,
    classes_in,
    files_in,
    names_in,
    pictures_among,
    validate_no_strays,
)
from metasgd.data.images.split_names import (
    IN_WORDS,
    several,
    split_called,
    splits_named,
    validate_no_alike,
    validate_targets,
)
from metasgd.data.images.tables import ANNOTATIONS, annotated_classes, classes_of_table, read_table
from metasgd.data.rng import SPLITS, Split
from metasgd.errors import UserError, some_of

TABLE, IMAGES = ".csv", "images"
"""The suffix of tables, and the folder of the pictures that they name."""


@dataclass(frozen=True)
class Found:
    """The classes in a folder.

    Attributes:
        classes: of all the splits.
        split: theirs, where the folder says so; else None.
        left_out: what of the folder is not used, in words; empty where all is.
    """

    classes: tuple[ClassFiles, ...]
    split: tuple[Split, ...] | None
    left_out: str = ""


def find_classes(root: Path) -> Found:
    """The classes in a folder, and their splits where its layout says them.

    Raises:
        UserError: it has no such layout, a class is in two splits, or something is called like a split and is none.
    """
    if not os.path.isdir(root):
        raise UserError(f"root is {root}, which is no folder. Give the folder that holds the pictures")
    inside = names_in(root)
    named_tables = [name for name in inside if name.lower().endswith(TABLE) and not os.path.isdir(root / name)]
    named_folders = [name for name in inside if os.path.isdir(root / name)]
    alike_tables = [name for name in named_tables if splits_named(name)]
    tables, folders = _splits_among(root, named_tables), _splits_among(root, named_folders)
    lists = {} if tables or folders else class_lists(root)
    left_out = ""
    if not tables and not folders and not lists:
        found = classes_in(root)
        validate_no_alike(root, [c.name for c in found])
        validate_targets(root, alike_tables if several(alike_tables) else [])
        return Found(tuple(found), None)
    if "train" in folders and os.path.isfile(folders.get("val", root) / ANNOTATIONS):
        return _tiny_imagenet(folders)
    if lists:
        classes, left_out = listed_classes(root, lists)
    elif len(tables) == len(SPLITS) or (tables and len(folders) < len(SPLITS)):
        _validate_complete(root, tables, TABLE)
        validate_targets(root, [name for name in alike_tables if root / name not in tables.values()])
        classes = {split: classes_of_table(table, root / IMAGES) for split, table in tables.items()}
    else:
        _validate_complete(root, folders, "/")
        others = [name for name in named_folders if root / name not in folders.values() and splits_named(name)]
        validate_targets(root, [name for name in others if _has_pictures(root / name)])
        classes = {split: classes_in(folder) for split, folder in folders.items()}
        for split, own in classes.items():
            validate_no_alike(folders[split], [c.name for c in own], in_split=True)
    _validate_shared(root, classes)
    every = [(split, c) for split in SPLITS for c in classes[split]]
    return Found(tuple(c for _, c in every), tuple(split for split, _ in every), left_out)


def labelled_pictures(place: Path) -> list[ClassFiles]:
    """The classes of a support set.

    It is a CSV file of ``file,label`` beside its pictures, or a folder of either a subfolder per class or nothing but
    one picture per class, whose name is the class.

    Raises:
        UserError: it is none of these, or a class is empty.
    """
    _validate_no_picture(place)
    if os.path.isfile(place):
        return classes_of_table(place, place.parent)
    files = files_in(place)
    validate_no_strays(files)
    _validate_no_empty(place, files)
    pictures = pictures_among(files, place)
    if not pictures or any(path.parent != place for path in pictures):
        found = classes_among(files, place)
        validate_no_alike(place, [c.name for c in found])
        return found
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
    _validate_no_picture(place)
    if os.path.isfile(place):
        return [path for path, _ in read_table(place, place.parent, labelled=False)]
    files = files_in(place)
    validate_no_strays(files)
    found = pictures_among(files, place)
    if not found:
        raise UserError(f"{place}: no pictures ({', '.join(SUFFIXES)}) are in it. Give the folder that holds them")
    return found


def _validate_no_picture(place: Path) -> None:
    if place.name.lower().endswith(SUFFIXES) and os.path.isfile(place):
        raise UserError(f"{place} is a picture. Give the folder that holds the pictures, or a CSV file that names them")


def _validate_no_empty(place: Path, files: Sequence[Path]) -> None:
    """Refuse a class without a picture, which would otherwise be left out without a word."""
    held = {path.relative_to(place).parts[0] for path in files}
    empty = [name for name in names_in(place) if os.path.isdir(place / name) and name not in held]
    if files and empty:
        raise UserError(
            f"{place}: {some_of(empty, 3)} {'is' if len(empty) == 1 else 'are'} empty, and a class needs a"
            " picture. Put some there, or remove the folder"
        )


def _splits_among(root: Path, names: Sequence[str]) -> dict[Split, Path]:
    """The folders, or the tables, that are splits."""
    found: dict[Split, Path] = {}
    for split in SPLITS:
        own = [name for name in names if split_called(re.sub(rf"\{TABLE}$", "", name, flags=re.IGNORECASE)) == split]
        if len(own) > 1:
            raise UserError(
                f"{root}: {' and '.join(own)} are both the {split} split. Leave one, and move the pictures of the other"
                " into it or away"
            )
        if own:
            found[split] = root / own[0]
    return found


def _tiny_imagenet(folders: Mapping[Split, Path]) -> Found:
    """Its classes are the same in train and val, so the two are put together, to be split anew, by classes."""
    files = {c.name: c.files for c in classes_in(folders["train"])}
    for c in annotated_classes(folders["val"]):
        files[c.name] = files.get(c.name, ()) + c.files
    left_out = f"{folders['test']} is not used: its pictures have no labels" if "test" in folders else ""
    return Found(tuple(ClassFiles(name, "", files[name]) for name in sorted(files)), None, left_out)


def _validate_complete(root: Path, found: Mapping[Split, Path], kind: str) -> None:
    missing = [f"{split}{kind}" for split in SPLITS if split not in found]
    if not missing:
        return
    one = next(iter(found.values()))
    instead = "" if kind == TABLE else f"; or give {one} as the root, to have its classes split by fractions"
    raise UserError(
        f"{root}: {one.name} is a split, but {' and '.join(missing)} is missing there. Add it beside the others"
        f" (splits are called {IN_WORDS}, in any case), or rename {one.name} if it is none{instead}"
    )


def _validate_shared(root: Path, classes: Mapping[Split, Sequence[ClassFiles]]) -> None:
    times = Counter(c.name for split in SPLITS for c in classes[split])
    twice = [name for name, n in times.items() if n > 1]
    if twice:
        raise UserError(
            f"root is {root}: {len(twice)} classes are in more than one of train, val and test, such as"
            f" {twice[0]}. A learner is evaluated on classes that it was not trained on: leave each in one, or"
            " rename those that are not the same. Where all are in each, give one of these folders, whose classes are"
            " then split by fractions"
        )


def _has_pictures(folder: Path) -> bool:
    return any(path.name.lower().endswith(SUFFIXES) for path in files_in(folder))
