"""``fit --help`` on two screens: the project's own options by group, and the Trainer's that are used most."""

import inspect
import re
import textwrap
from collections.abc import Iterator, Sequence
from shutil import get_terminal_size
from typing import Any

from lightning import Trainer

from metasgd.cli.choices import CHOICES
from metasgd.cli.overview import PURPOSES, program
from metasgd.cli.trainer_options import TRAINER_DEFAULTS
from metasgd.meta.model import MetaModel
from metasgd.training.callbacks.checkpoints import LastCheckpoint
from metasgd.training.datamodule import EpisodicDataModule
from metasgd.training.module import MetaSGDModule
from metasgd.training.outer import OuterProblem

ASKED = ("-h", "--help")
COMMANDS = ("fit", "validate", "test", "predict")
OF_RUN = {
    "config": (None, "a configuration: its name, as glyphs, or a file; several are laid over one another"),
    "ckpt_path": (
        None,
        "last, best, resume, a file, or the name of one that comes with metasgd; to evaluate, several with commas",
    ),
    "init_from": (None, "start from the weights of this checkpoint"),
    "seed_everything": (0, "of the initial weights"),
    "run.save_dir": ("runs", "the folder of all runs"),
    "run.name": ("metasgd", "of the run, by default the logger's"),
    "run.version": (None, "K of the run's folder SAVE_DIR/NAME/version_K"),
}
"""Options of no class: their defaults and what they are."""
OF_TRAINER = {
    "max_steps": "outer steps of the training",
    "val_check_interval": "outer steps between validations",
    "accelerator": "cpu, gpu, or what there is",
    "devices": "how many of these, or which",
    "num_nodes": "machines",
    "precision": "32-true, bf16-mixed or 64-true",
    "logger": "TensorBoardLogger, CSVLogger, others, several, or false",
    "callbacks": "Lightning's, or your own",
    "log_every_n_steps": "outer steps between points of the curves",
    "enable_progress_bar": "show how far it is",
}
"""The Trainer's options that are used most."""
DEFAULTS = {"model.update_rule": "PerParameter", "trainer.max_steps": None}
"""Where they are not those of the signature."""
LINKED = ("data.outer_steps_per_task",)
"""What follows from another option."""
EMPTY = inspect.Parameter.empty
WRITTEN = (bool, int, float, str, type)
"""Defaults that are shown."""
WIDEST, INDENT = 110, 36


def asks_for_short_help(arguments: Sequence[str]) -> bool:
    """Whether a Trainer's command is asked for its help, and not for all of it."""
    asked = [i for i, argument in enumerate(arguments) if argument in ASKED]
    return bool(asked) and arguments[0] in COMMANDS and [*arguments[asked[0] + 1 :]][:1] != ["all"]


def in_full(arguments: Sequence[str]) -> list[str]:
    """The command line with ``--help`` for ``--help all`` and ``--help_all``."""
    if not arguments or arguments[0] not in COMMANDS:
        return list(arguments)
    full = ["--help" if argument == "--help_all" else argument for argument in arguments]
    return [a for i, a in enumerate(full) if not (a == "all" and i and full[i - 1] in ASKED)]


def short_help(command: str) -> str:
    """The help of a Trainer's command.

    Args:
        command: one of ``COMMANDS``.
    """
    width = min(WIDEST, get_terminal_size().columns)
    lines = [f"usage: {program()} {command} [CONFIG] [--OPTION VALUE ...]", "", PURPOSES[command], ""]
    for title, options in option_groups():
        lines += [f"{title}:", *(line for option in options for line in _option(*option, width)), ""]
    more = (
        f"{program()} {command} --help all lists every option. --model.network.help Conv4 lists the options of a class,"
        f" here of a network; {program()} configs lists the configurations."
    )
    return "\n".join([*lines, *textwrap.wrap(more, width)])


Option = tuple[str, Any, str]


def option_groups() -> Iterator[tuple[str, list[Option]]]:
    """The options by what they are about, each with its path, its default and its purpose."""
    yield "the run", [(name, *rest) for name, rest in OF_RUN.items()]
    model = [o for o in _of("model", MetaSGDModule, MetaModel) if o[0] != "model.outer"]
    yield "model: what learns", model
    yield "outer: what an outer step does", [*_of("model.outer", OuterProblem)]
    yield "data: the tasks", [o for o in _of("data", EpisodicDataModule) if o[0] not in LINKED]
    defaults = {name: p.default for name, p in inspect.signature(Trainer.__init__).parameters.items()}
    trainer = {**defaults, **TRAINER_DEFAULTS}
    of_trainer = [
        (f"trainer.{n}", DEFAULTS.get(f"trainer.{n}", trainer[n]), purpose) for n, purpose in OF_TRAINER.items()
    ]
    yield "trainer: Lightning's", [*of_trainer, *_of("last_checkpoint", LastCheckpoint)]


def _of(prefix: str, made: type, documented: type | None = None) -> Iterator[Option]:
    """The options of a class's arguments: defaults by its signature, purposes by its docstring."""
    purposes = _purposes(inspect.getdoc(documented or made) or "")
    for name, parameter in inspect.signature(made).parameters.items():
        path = f"{prefix}.{name}"
        default = (
            parameter.default if isinstance(parameter.default, WRITTEN) and parameter.default is not EMPTY else None
        )
        known = [cls.__name__ for cls in CHOICES.get(path, ())]
        purpose = purposes.get(name, "")
        yield path, DEFAULTS.get(path, default), f"{purpose}: {', '.join(known)}, or yours" if known else purpose


def _purposes(docstring: str) -> dict[str, str]:
    """Of each argument, what is said of it up to the first end of a clause."""
    arguments = docstring.partition("\nArgs:\n")[2].partition("\n\n")[0]
    found = re.findall(r"^    (\w+): (.*(?:\n        .*)*)", arguments, re.MULTILINE)
    plain = ((name, " ".join(text.split()).replace("``", "")) for name, text in found)
    return {name: re.split(r"[;.](?: |$)", text)[0] for name, text in plain}


def shown(default: Any) -> str:
    """A default as a user would write it; empty where there is none to show."""
    named = getattr(default, "__name__", default)
    return "" if named is None else str(named).lower() if isinstance(named, bool) else str(named)


def _option(path: str, default: Any, purpose: str, width: int) -> list[str]:
    stands = f" ({shown(default)})" if shown(default) else ""
    name = f"  --{path}"
    text = textwrap.wrap(purpose + stands, width - INDENT)
    if len(name) > INDENT - 2:
        return [name, *(" " * INDENT + line for line in text)]
    return [name.ljust(INDENT) + text[0], *(" " * INDENT + line for line in text[1:])]
