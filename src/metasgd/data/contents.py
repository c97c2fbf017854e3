"""Which classes and pictures a run has, in brief: saved in its checkpoints, to be compared with what is there later."""

from collections.abc import Mapping
from typing import Any

from metasgd.data.rng import SPLITS, Split

Contents = Mapping[Split, Mapping[str, tuple[int, str]]]
"""Of each split, its classes by name: how many pictures each has, and a digest of these."""


def as_contents(value: Any) -> Contents:
    """What a checkpoint holds, once it is known to be of this form.

    Raises:
        ValueError: it is not.
    """
    for split, classes in value.items() if isinstance(value, dict) else [(value, None)]:
        if split not in SPLITS or not isinstance(classes, dict):
            raise ValueError(f"{split!r} is no split with classes")
        for name, about in classes.items():
            if not (isinstance(name, str) and isinstance(about, tuple) and list(map(type, about)) == [int, str]):
                raise ValueError(f"{name!r} is no class with a number and a digest of its pictures")
    return dict(value)


def changes(saved: Contents, own: Contents) -> list[str]:
    """What is otherwise in the classes to train and to validate on, in words; those of the test do not matter.

    Args:
        saved: what a run began with.
        own: what is there now.
    """
    found = []
    place = {name: split for split, classes in own.items() for name in classes}
    for split in ("train", "val"):
        before, now = saved.get(split, {}), own.get(split, {})
        new = [name for name in now if name not in before]
        gone = [f"{name} (now in {place[name]})" if name in place else name for name in before if name not in now]
        other = [
            f"{name} ({now[name][0]}, {count} then)" if now[name][0] != count else f"{name} ({count} others)"
            for name, (count, digest) in before.items()
            if name in now and now[name] != (count, digest)
        ]
        found += [
            f"{len(names)} class{'es' * (len(names) != 1)} of {split} {what}, such as {names[0]}"
            for names, what in ((new, "new"), (gone, "gone"), (other, "with other pictures"))
            if names
        ]
    return found


def seen_in_training(saved: Contents, own: Contents, split: Split) -> tuple[list[str], bool]:
    """Classes of a split that a checkpoint was trained on, or, for test, also chosen by.

    Args:
        saved: what the checkpoint's run had.
        own: what is there now.
        split: to evaluate on.

    Returns:
        their names, and whether they are certainly the same: some class has the same pictures now as then.
    """
    used = {name for other in SPLITS[: SPLITS.index(split)] for name in saved.get(other, {})}
    before = {pair for classes in saved.values() for pair in classes.items()}
    same_data = any(pair in before for classes in own.values() for pair in classes.items())
    return [name for name in own.get(split, {}) if name in used], same_data
