"""The names of splits. What is only called like one is refused: taken as classes, splits would share classes."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from metasgd.data.rng import SPLITS, Split
from metasgd.errors import UserError

SPELLINGS: Mapping[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "eval"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""The splits' names, in any case."""
WORDS: Mapping[str, Split] = {**SPELLINGS, "evaluation": "val"}
WORD = "|".join(sorted(WORDS, key=len, reverse=True))
ALIKE = re.compile(f"(?:meta)?(?:{WORD})+(?:s|sets?|data|splits?|images?|imgs?|pictures?|classes)?")
BESIDE = {"set", "sets", "data", "dataset", "split", "images", "image", "imgs", "img", "pictures", "classes", "meta"}
BESIDE |= {"my", "new", "old", "full", "all", "final", "raw", "part", "fold", "and", "of"}
"""Words that make no class out of the name of a split."""
IN_WORDS = "; ".join(" or ".join(name for name in SPELLINGS if SPELLINGS[name] == split) for split in SPLITS)
MOST_NAMED = 10


def split_called(name: str) -> Split | None:
    """The split that is called so, in any case."""
    return SPELLINGS.get(name.strip().casefold())


def splits_named(name: str) -> set[Split]:
    """The splits that the name of a folder or table speaks of: ``trainval``, ``Test2``, ``bullet_train``."""
    return {WORDS[said] for word in _words(name) if ALIKE.fullmatch(word) for said in re.findall(WORD, word)}


def validate_no_alike(folder: Path, classes: Sequence[str], in_split: bool = False) -> None:
    """Refuse classes that look like splits, or lie in folders that do.

    A name of the words of splits alone, as ``test_set2``, is one; among others, as in ``bullet_train``, only if the
    names speak of several splits.

    Args:
        folder: which holds the classes.
        classes: their names, relative to it.
        in_split: whether it is a split itself, so that several do not matter.

    Raises:
        UserError: names them.
    """
    above = {place.as_posix() for name in classes for place in PurePosixPath(name).parents} - {"."}
    alike = [place for place in sorted({*above, *classes}) if splits_named(_last(place))]
    if in_split or not several(map(_last, alike)):
        alike = [place for place in alike if _speaks_of_nothing_else(_last(place))]
        # one that is a class by its pictures: a train among vehicles
        alike = [place for place in alike if place in above or split_called(_last(place)) is None]
    validate_targets(folder, alike)


def several(names: Iterable[str]) -> bool:
    """Whether the names speak of more than one split."""
    return len({split for name in names for split in splits_named(name)}) > 1


def validate_targets(folder: Path, names: Sequence[str]) -> None:
    """Refuse what is called like a split and is none, if there is something."""
    if names:
        shown = ", ".join(names[:MOST_NAMED]) + " …" * (len(names) > MOST_NAMED)
        raise UserError(
            f"{folder}: {shown} is called like a split, but splits are called {IN_WORDS}, in any case, and lie together"
            " in the folder that is given. Rename it, move it away, or give the folder that holds the splits"
        )


def _speaks_of_nothing_else(name: str) -> bool:
    return all(word in BESIDE or ALIKE.fullmatch(word) for word in _words(name))


def _words(name: str) -> list[str]:
    """In small letters; ``TrainSet2`` has two."""
    return re.findall(r"[^\W\d_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).casefold())


def _last(place: str) -> str:
    return PurePosixPath(place).name
