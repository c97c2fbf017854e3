"""The checkpoints that come with this project, by their names."""

from pathlib import Path

from metasgd.errors import UserError

PLACES = (Path("checkpoints"), Path(__file__).parents[3] / "checkpoints")
"""Where they lie: in the folder at hand, or beside the sources."""
FILE = "model.ckpt"


def checkpoint_named(given: str, option: str) -> str:
    """The path that a checkpoint's name stands for, as ``omniglot``; anything that is no bare name is a path already.

    Raises:
        UserError: there is no file and no checkpoint of this name.
    """
    if "/" in given or "." in given or Path(given).exists():
        return given
    for place in PLACES:
        if (place / given / FILE).is_file():
            return str(place / given / FILE)
    names = sorted({path.parent.name for place in PLACES for path in place.glob(f"*/{FILE}")})
    known = f"one of {', '.join(names)}" if names else "none, since there is no folder checkpoints/ here"
    raise UserError(
        f"{option} is {given}, which is neither a file nor the name of a checkpoint that comes with metasgd ({known})"
    )
