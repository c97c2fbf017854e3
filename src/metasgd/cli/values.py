"""Values that the parser lets through and no class can take: null, and whole numbers beyond 64 bits."""

from collections.abc import Callable, Iterator, Mapping
from inspect import signature
from types import NoneType
from typing import Any, TypeVar, get_args, get_type_hints

from metasgd.construction import named
from metasgd.errors import raise_problems

LARGEST = 2**63 - 1


def validate_values(options: Mapping[str, Any], classes: Mapping[str, Callable[..., Any]]) -> None:
    """Refuse null where a class takes none, as far as its annotations say so, and numbers that torch cannot hold.

    Args:
        options: a configuration.
        classes: what is built of its parts, by their names.

    Raises:
        UserError: with all of them.
    """
    parts = ((name, made) for name, made in classes.items() if name in options)
    raise_problems([said for name, made in parts for said in _of_options(name, made, options[name])])


def _of_options(path: str, made: Callable[..., Any], options: Mapping[str, Any]) -> Iterator[str]:
    hints, by_default = _hints(made)
    for name, value in options.items():
        if value is None and not (name in by_default or _takes_null(hints.get(name, Any))):
            yield f"{path}.{name} is null, which {getattr(made, '__name__', made)} does not take: give a value"
        yield from _of_value(f"{path}.{name}", hints.get(name, Any), value)


def _of_value(path: str, hint: Any, value: Any) -> Iterator[str]:
    if isinstance(value, int) and abs(value) > LARGEST:
        yield f"{path} is {value}: a whole number of at most {LARGEST} is needed"
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _of_value(path, Any, item)
    elif isinstance(value, Mapping) and isinstance(value.get("class_path"), str):
        made = named(value["class_path"])
        if callable(made):
            yield from _of_options(f"{path}.init_args", made, value.get("init_args") or {})
    elif isinstance(value, Mapping):
        made = hint if isinstance(hint, type) and not issubclass(hint, Mapping) else dict
        yield from _of_options(path, made, value)


def _hints(made: Callable[..., Any]) -> tuple[dict[str, Any], set[str]]:
    """The annotations of its parameters, and the names of those that are None by default."""
    try:
        hints = get_type_hints(getattr(made, "__init__") if isinstance(made, type) else made)  # noqa: B009 - mypy
        parameters = signature(made).parameters.values()
    except (NameError, TypeError, ValueError, AttributeError):  # of another package's, which need not make sense here
        return {}, set()
    return hints, {parameter.name for parameter in parameters if parameter.default is None}


def _takes_null(hint: Any) -> bool:
    return hint in (Any, None, NoneType, object) or isinstance(hint, TypeVar) or any(map(_takes_null, get_args(hint)))
