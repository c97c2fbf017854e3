"""Which classes a file that somebody else may have written is allowed to name."""

from collections.abc import Collection

from metasgd.construction import named
from metasgd.errors import UserError

PACKAGES = ("metasgd", "torch", "torchvision", "lightning", "timm")
"""Importing these runs no code that the file brought along."""
ACTIVATIONS = ("torch.nn.functional", "torch._C._nn")
"""Where torch defines the functions that its own layers have as defaults."""


def validate_class_path(path: str, kinds: tuple[type, ...], known: Collection[str] = ()) -> None:
    """Refuse an import path that a checkpoint may not name; import nothing outside of ``PACKAGES``.

    Allowed are the classes of ``PACKAGES`` that are of one of the ``kinds``, under any name that these packages give
    them, and the functions of ``torch.nn.functional``. A name such as ``torch.os.system`` leads out of them.

    Args:
        path: as ``torch.nn.Linear``.
        kinds: base classes, whose constructors take options and do nothing beyond the object.
        known: paths that the user's own configuration names, which are therefore allowed.

    Raises:
        UserError: names what would be imported.
    """
    if path in known:
        return
    parts = path.split(".")
    if parts[0] not in PACKAGES:
        raise UserError(
            f"class_path is {path}: importing it would run the code of {parts[0]!r}, which is none of"
            f" {', '.join(PACKAGES)}. If you trust whoever made the checkpoint, say so: --trust_checkpoint true on the"
            " command line, trust=True in Python"
        )
    found = None if any(not part.isidentifier() or part.startswith("_") for part in parts) else named(path)
    if isinstance(found, type):
        allowed = issubclass(found, kinds) and found.__module__.partition(".")[0] in PACKAGES
    else:
        allowed = callable(found) and parts[:-1] == ACTIVATIONS[0].split(".") and found.__module__ in ACTIVATIONS
    if not allowed:
        raise UserError(
            f"class_path is {path}, which is no network, update rule, estimator, data source, optimizer or schedule of"
            f" {', '.join(PACKAGES)}, so it is not imported. If you trust whoever made the checkpoint, say so:"
            " --trust_checkpoint true on the command line, trust=True in Python"
        )
