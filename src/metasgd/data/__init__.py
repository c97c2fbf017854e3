"""Where tasks come from, and the tasks drawn from it."""

from importlib import import_module
from typing import Any

_HOMES = {
    "Glyphs": "metasgd.data.glyphs.source",
    "Omniglot": "metasgd.data.omniglot.source",
    "ImageFolder": "metasgd.data.images.image_folder",
    "Sinusoid": "metasgd.data.sinusoid",
    "ManyClasses": "metasgd.data.problems",
    "Curve": "metasgd.data.problems",
}


def __getattr__(name: str) -> Any:
    """The sources, imported when they are asked for: each needs other packages."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(_HOMES)
