"""The parser of configurations, held to import what was checked alone."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from jsonargparse import _actions, _typehints, _util

from metasgd.errors import UserError

_OWN = ("jsonargparse.ArgumentParser",)
"""Which the parser imports by name for itself."""
_LOCK = threading.RLock()


@contextmanager
def imports_checked(check: Callable[[str], None]) -> Iterator[None]:
    """Whatever this thread's parsers import by a path is checked before.

    Classes, functions, strings that hold YAML, configurations in files: jsonargparse imports all that values name by
    one function, which it offers no hook for, so it is replaced meanwhile.

    Args:
        check: raises a ``UserError`` for a path that is not to be imported.

    Raises:
        UserError: the first that ``check`` raised, whatever the parser made of it.
    """
    original, thread = _util.import_object, threading.get_ident()
    refused: list[UserError] = []

    def import_object(name: Any, *args: Any, **options: Any) -> Any:
        by_value = threading.get_ident() == thread and options.get("check_path", True) and name not in _OWN
        if by_value and isinstance(name, str) and "." in name:  # without a dot it is no path, and is not imported
            try:
                check(name)
            except UserError as error:
                refused.append(error)
                raise ImportError(str(error)) from error
        return original(name, *args, **options)

    with _LOCK:
        places = [module for module in (_util, _typehints, _actions) if hasattr(module, "import_object")]
        for module in places:
            module.import_object = import_object  # type: ignore[attr-defined] # re-exported, as the others import it
        try:
            yield
        finally:
            for module in places:
                module.import_object = original  # type: ignore[attr-defined]
            if refused:
                raise refused[0]
