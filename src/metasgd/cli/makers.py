"""The classes and functions that a configuration names: which are refused, and the option paths in their messages."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, TypeVar, get_type_hints

from jsonargparse import Namespace, add_instantiator
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from metasgd.construction import named
from metasgd.errors import UserError, arguments_of, at_argument, raise_problems
from metasgd.training.callbacks.checkpoints import LastCheckpoint
from metasgd.training.outer import OuterProblem

MADE: dict[str, type] = {
    "model.outer.optimizer": Optimizer,
    "model.outer.scheduler": LRScheduler,
    "network": nn.Module,
    "optimizer": Optimizer,
}
"""What is made by calling what an option names; elsewhere the parser itself asks for a subclass."""
OF_FIT: dict[Any, str] = {OuterProblem: "model.outer", LastCheckpoint: "last_checkpoint"}
"""The classes that stand in fit's configurations without a class path."""
Made = TypeVar("Made")
_PATHS: ContextVar[Mapping[Any, str]] = ContextVar("_PATHS", default={})  # noqa: B039 - a Mapping

_REFUSED: ContextVar[list[UserError] | None] = ContextVar("_REFUSED", default=None)
"""What the classes called so far have refused."""


def validate_makers(config: Namespace) -> None:
    """Refuse options whose class path names what makes something else than the option takes; call nothing.

    The parser takes any function where it takes a callable, and would call ``os.system``.

    Args:
        config: as parsed, before anything in it is instantiated.

    Raises:
        UserError: with all of them.
    """
    found = ((option.replace(".init_args", ""), path, maker) for option, path, maker in makers_in("", config))
    raise_problems([problem for option, path, maker in found for problem in _wrong_maker(option, path, maker)])


def makers_in(option: str, value: Any) -> Iterator[tuple[str, str, Any]]:
    """Each class or function that a configuration has called: its option, with ``init_args``, its path and itself."""
    if isinstance(value, Namespace | Mapping):
        options = vars(value) if isinstance(value, Namespace) else value
        path = options.get("class_path")
        if isinstance(path, str):
            yield option, path, named(path)
        for name, below in options.items():
            yield from makers_in(f"{option}.{name}".lstrip("."), below)
    elif isinstance(value, list | tuple):
        for below in value:
            yield from makers_in(option, below)
    elif option.replace(".init_args", "") in MADE and callable(value):
        yield option, getattr(value, "__name__", str(value)), value


def _wrong_maker(option: str, path: str, maker: Any) -> Iterator[str]:
    made = maker if isinstance(maker, type) else get_type_hints(maker).get("return")
    kind = MADE.get(option, object)
    if not (isinstance(made, type) and issubclass(made, kind)) or made is type(None):
        a = "class" if kind is object else f"subclass of {kind.__name__}"
        yield f"{option} is {path}: a {a} is needed, or a function whose annotation says that it returns one"


@contextmanager
def naming_options(options: Namespace, fit: bool = False) -> Iterator[None]:
    """Put the option's path before the arguments in the messages of all classes and functions called inside.

    ``width is 0: …`` becomes ``model.network.init_args.width is 0: …`` in fit, and ``--network.width is 0: …`` in the
    commands whose options are not read from a class path's ``init_args`` alone.

    Args:
        options: the configuration, of which jsonargparse builds the objects.
        fit: whether it is fit's, whose paths are written as in its files.
    """
    paths = dict(OF_FIT) if fit else {}
    with ExitStack() as functions:  # which jsonargparse calls without an instantiator
        for option, _, maker in makers_in("", options):
            path = f"{option}.init_args" if fit else f"--{option.replace('.init_args', '')}"
            if paths.setdefault(maker, path) == path and not isinstance(maker, type):
                functions.enter_context(at_argument(path, arguments_of(maker)))
        refused: list[UserError] = []
        tokens = _PATHS.set(paths), _REFUSED.set(refused)
        try:
            yield
        except ValueError as error:
            if isinstance(error, UserError) or not refused:
                raise
            raise refused[-1] from error  # which jsonargparse hides where an option takes a class or a word
        finally:
            _PATHS.reset(tokens[0])
            _REFUSED.reset(tokens[1])


def _build(class_type: type[Made], *args: Any, **given: Any) -> Made:
    path = _PATHS.get().get(class_type)
    try:
        with nullcontext() if path is None else at_argument(path, given.keys()):
            return class_type(*args, **given)
    except UserError as error:
        _remember(error)
        raise
    except MisconfigurationException as error:  # Lightning's own
        where = "" if path is None else f"{path.removesuffix('.init_args')} is {class_type.__name__}: "
        raise _remember(UserError(f"{where}{error}")) from error


def _remember(error: UserError) -> UserError:
    if (refused := _REFUSED.get()) is not None:
        refused.append(error)
    return error


add_instantiator(_build, object)
