"""What an object was constructed with, so that a checkpoint can name it and make it again."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from importlib import import_module
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, Self

_GIVEN = "_given_arguments"


class NotWritableError(Exception):
    """An object that no configuration can name; its message says why."""


class Configurable:
    """Remembers the arguments of its constructor, those of subclasses too, whatever these do with them.

    Example:
        >>> class Square(Configurable):
        ...     def __init__(self, side: float, colour: str = "red") -> None:
        ...         self.area = side**2
        >>> arguments_of_construction(Square(2))
        {'side': 2, 'colour': 'red'}
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        if cls.__init__ is object.__init__ and (args or kwargs):
            raise TypeError(f"{cls.__name__}() takes no arguments")  # as object says where there is no __new__
        made = super().__new__(cls)
        object.__setattr__(made, _GIVEN, (args, kwargs))  # copying and unpickling put the original's there afterwards
        return made


def arguments_of_construction(made: Configurable) -> dict[str, Any]:
    """By name, with the defaults of those that were not given.

    Raises:
        NotWritableError: some have no name of their own.
    """
    args, kwargs = getattr(made, _GIVEN)
    bound = signature(type(made)).bind(*args, **kwargs)
    bound.apply_defaults()
    found: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        if kind is Parameter.VAR_POSITIONAL and value:
            raise NotWritableError(f"its arguments *{name} have no names")
        found |= value if kind is Parameter.VAR_KEYWORD else {} if kind is Parameter.VAR_POSITIONAL else {name: value}
    return found


def configuration_of(value: Any) -> Any:
    """``value`` in plain types, as a configuration file holds it: an object as its ``class_path`` and ``init_args``.

    Raises:
        NotWritableError: it is, or holds, an object that does not remember its arguments, or a class that cannot be
            imported by its name.

    Example:
        >>> from metasgd.rules import PerParameter
        >>> configuration_of({"update_rule": PerParameter(0.1)})["update_rule"]["class_path"]
        'metasgd.rules.PerParameter'
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple):
        return [configuration_of(item) for item in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: configuration_of(item) for key, item in value.items()}
    if isinstance(value, Configurable):
        return {"class_path": class_path(type(value)), "init_args": configuration_of(arguments_of_construction(value))}
    if isinstance(value, partial) and not value.args:
        return {"class_path": class_path(value.func), "init_args": configuration_of(value.keywords)}
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: configuration_of(getattr(value, field.name)) for field in fields(value) if field.init}
    if isinstance(value, type) or hasattr(value, "__qualname__"):
        return class_path(value)
    raise NotWritableError(f"{class_path(type(value))} does not remember the arguments that it was made with")


def class_path(of: Any) -> str:
    """The shortest path that a class or function can be imported by.

    Raises:
        NotWritableError: there is none, as for one that a function or a script defines.

    Example:
        >>> from collections import OrderedDict
        >>> class_path(OrderedDict)
        'collections.OrderedDict'
    """
    module, name = str(of.__module__), str(of.__qualname__)
    parts = module.split(".")
    if "<" not in name and module != "__main__":
        for n in (*range(2, len(parts) + 1), 1):  # torch.nn before torch
            package = ".".join(parts[:n])
            if named(f"{package}.{name}") is of:
                return f"{package}.{name}"
    raise NotWritableError(f"{module}.{name} cannot be imported by its name")


def named(path: str) -> Any:
    """What a path leads to: attributes of the deepest module that can be imported; None if it leads nowhere.

    ``pydoc.locate`` goes by attributes from the first package on, and so misses a module that its package hides, as
    torch deletes ``torch.optim.adam``.
    """
    parts = path.split(".")
    for n in range(len(parts) - 1, 0, -1):
        try:
            found: Any = import_module(".".join(parts[:n]))
            for part in parts[n:]:
                found = getattr(found, part)
        except (ImportError, AttributeError, RuntimeError, TypeError):  # the last two for what torch.classes lacks
            continue
        return found
    return None
