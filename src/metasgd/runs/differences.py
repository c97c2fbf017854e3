"""What two configurations differ in: the one a checkpoint or a run was made with, and the one given now."""

from collections.abc import Collection, Iterator, Mapping
from inspect import signature
from typing import Any, NamedTuple

from metasgd.construction import named

PLAIN = (bool, int, float, str, tuple, type(None))
"""Of defaults: what a configuration file holds as it is, a tuple as a list."""


class Difference(NamedTuple):
    """An option, as it is written on the command line, and its two values; a class by its name alone."""

    option: str
    saved: Any
    own: Any


def differences(option: str, saved: Any, own: Any, free: Collection[str] = ()) -> Iterator[Difference]:
    """What differs in ``option`` and below it, the first difference of classes before their options.

    Options that only one of the two has are passed over, since versions of this program add and lose some: but one that
    a class got since counts at its default, which is how the saved one was made. A class is the same wherever it was
    imported from.

    Args:
        option: the name of both, with dots.
        saved: a value, or options by name, as in a configuration file.
        own: the other.
        free: options below that may differ.
    """
    if isinstance(saved, Mapping) and isinstance(own, Mapping):
        if "class_path" in saved and "class_path" in own:
            if _brief(saved) != _brief(own):
                yield Difference(option, _brief(saved), _brief(own))
                return
            saved = _with_later_options(saved, own)
        for key in saved:
            if key in own and key not in (*free, "class_path"):
                below = option if key == "init_args" else f"{option}.{key}"
                yield from differences(below, saved[key], own[key], free)
    elif isinstance(saved, Mapping) != isinstance(own, Mapping) or saved != own:
        yield Difference(option, _brief(saved), _brief(own))


def _with_later_options(saved: Mapping[str, Any], own: Mapping[str, Any]) -> Mapping[str, Any]:
    """``saved`` with the options that only ``own`` has, at the defaults of the class, as far as these are plain."""
    made = named(own["class_path"])
    if not callable(made):
        return saved
    known, given = saved.get("init_args") or {}, own.get("init_args") or {}
    later = {
        name: list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
        for name, parameter in signature(made).parameters.items()
        if name in given and name not in known and isinstance(parameter.default, PLAIN)
    }
    return {**saved, "init_args": {**known, **later}}


def _brief(value: Any) -> Any:
    return str(value.get("class_path", "a class")).rpartition(".")[2] if isinstance(value, Mapping) else value
