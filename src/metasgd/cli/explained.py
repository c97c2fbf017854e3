"""What is said of options that cannot be: one message with what is allowed, in place of the parser's own."""

import ast
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches

from metasgd.cli.choices import CHOICES
from metasgd.cli.overview import program
from metasgd.construction import named
from metasgd.errors import arguments_of

KEY = re.compile(r'\s*Parser key "([\w.]+)":')
NOT_A_FILE = re.compile(r"^ *- Expected a path but .* either not accessible or invalid\n", re.MULTILINE)
"""Every option that takes a class could name a file with it, too."""
OF_CLASS = re.compile(
    r"^( *)(?:- )?(?:Problem with given class_path '(?P<path>[\w.]+)':|Type .* a callable class:)"
    r"(?P<problem>.*(?:\n\1 .*|\n(?=\n))*)",
    re.MULTILINE,
)
"""What is wrong with a class's own options: all that stands further in."""
MADE = re.compile(r"\. Got value: Namespace\(class_path='([\w.]+)'.*")
NOT_ACCEPTED = re.compile(r"\s*Option '([\w.]+)' is not accepted")
NOT_IN_COMMAND = re.compile(r"Subcommand '\w+' does not accept option '([\w.]+)'")
REQUIRED = re.compile(
    r"the following arguments are required: (?P<names>(?:(?P<command>fit|validate|test|predict)\.)?.*)"
)
NO_MODULE = re.compile(r"Import path (\S+) does not correspond to a subclass of Module")
NO_ATTRIBUTE = re.compile(r"module '([\w.]+)' has no attribute '(\w+)'")
NO_FILE = re.compile(r"Unable to load config ['\"](.*)['\"]")
VALUE = re.compile(r"(?:Given value|Got value): (.*)")
NO_CLASS = re.compile(r"Expected a dot import path string: (\S+)")
LITERAL = re.compile(r"typing\.Literal(\[[^\]]*\])")
EXPECTED = re.compile(r"Expected a <class '([\w.]+)'>")
WANTED = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text"}
NONE = "NoneType"
WANTED |= dict.fromkeys(("tuple", "list", "collections.abc.Sequence", "collections.abc.Iterable"), "a list")


@dataclass(frozen=True)
class Problem:
    """What is wrong, without the options around it.

    Attributes:
        option: with those that it is an option of, as in configurations.
        of: the class whose option it is; empty for an option of the command.
        said: of it alone.
    """

    option: str
    of: str
    said: str


def explained(message: str, options: Sequence[str], classes: Sequence[str] = ()) -> str:
    """The parser's own message, with what was probably meant, or what is allowed.

    Args:
        message: as jsonargparse makes it.
        options: those that there are, with their dashes.
        classes: the names of those that the option which it is about can take.
    """
    unknown = message.removeprefix("unrecognized arguments: ")
    if unknown != message:
        given = [word.partition("=")[0] for word in unknown.split() if word.startswith("--")]
        near = {word: get_close_matches(word, options, n=1, cutoff=0.8) for word in given}
        meant = [f"Did you mean {found[0]} for {word}?" for word, found in near.items() if found]
        return " ".join([f"no such option: {unknown}.", *meant])
    if in_file := NOT_IN_COMMAND.match(message):
        return f"no such option: {in_file[1]}, in a configuration.{_meant(f'--{in_file[1]}', options)}"
    if required := REQUIRED.fullmatch(message.strip()):
        return _missing(required["command"] or "", required["names"].split(", "), options)
    problem = _innermost(NOT_A_FILE.sub("", message))
    if stray := NOT_ACCEPTED.match(problem.said):
        prefix = f"{problem.option}.init_args." if problem.of else "--"
        known = arguments_of(named(problem.of)) if problem.of else [option.removeprefix("--") for option in options]
        return f"no such option: {prefix}{stray[1]}.{_meant(stray[1], [*known], prefix)}"
    if no_module := NO_MODULE.search(problem.said):
        return (
            f"{problem.option} is {no_module[1]}: give a class of torch.nn.Module, or a function that is annotated to"
            " return one, as def make() -> torch.nn.Module"
        )
    if absent := NO_ATTRIBUTE.search(problem.said):
        module, name = absent.groups()
        return f"{problem.option} is {module}.{name}: there is none.{_meant(name, dir(named(module)), f'{module}.')}"
    own = [o for o in options if o.startswith(f"--{problem.option}.") and not o.endswith(".help")]
    if own and (no_file := NO_FILE.search(problem.said)):
        some = _listed(own[:2], "and")
        return f"{problem.option} is {no_file[1]}, which is no file of options: give one, or single options, as {some}"
    return _not_allowed(problem, classes) or message


def class_help(message: str, options: Sequence[str]) -> str:
    """What follows the program for the help on the options of the class, or of the command, that a message is about."""
    problem = _innermost(message)
    option = f"--{option_in(message)}.help"
    return f"{option} {problem.of}" if option in options and problem.of and named(problem.of) else "--help"


def option_in(message: str) -> str:
    """The option of the command that a message is about; empty for one about no single option."""
    key = KEY.match(message)
    return key[1] if key else ""


def command_in(message: str) -> str:
    """The command whose options a message of the whole program is about; empty for none."""
    found = REQUIRED.match(message)
    return (found["command"] or "") if found else ""


def _innermost(message: str) -> Problem:
    """What a message says of the innermost option; of several types that an option can have, of the first class."""
    keys, of, said = [], "", message
    while True:
        if key := KEY.match(said):
            keys.append(key[1])
            said = said[key.end() :]
        found = OF_CLASS.search(said)
        if found is None:
            return Problem(".init_args.".join(keys), of, said)
        said = found["problem"]
        made = MADE.search(said)
        of = found["path"] or (made[1] if made else "")
        said = MADE.sub("", said)


def _not_allowed(problem: Problem, classes: Sequence[str]) -> str:
    """An option's value, and which it could have; empty if the message does not say so."""
    value = [*NO_CLASS.findall(problem.said), *VALUE.findall(problem.said)][:1]
    own = [cls.__name__ for cls in CHOICES.get(problem.option, ())]
    words: list[str] = []
    for found in LITERAL.findall(problem.said):
        with suppress(SyntaxError, ValueError):  # of a word with brackets
            words += map(str, ast.literal_eval(found))
    wanted = list(dict.fromkeys([*words, *own, *_kinds(problem.said, bool(words), bool(own))]))
    if not (problem.option and value and wanted):
        return ""
    start = f"{problem.option} is {value[0]}: "
    if len(wanted) == 1 and not words:
        return f"{start}{wanted[0]} is needed"
    meant = _meant(value[0], [*words, *own, *([] if problem.of else classes)])
    return f"{start}use {_listed(wanted, 'or')}{'.' * bool(meant)}{meant}"


def _kinds(said: str, words: bool, own: bool) -> Iterator[str]:
    """The kinds of values that would do, in words; null is the last."""
    kinds = EXPECTED.findall(said)
    for kind in kinds:
        if kind != NONE and not (kind == "int" and words):  # which stands for the words that are numbers
            yield WANTED.get(kind, f"a {kind}")
    if NO_CLASS.search(said):
        yield "the import path of a class of yours" if own else "a class by its name or import path"
    if NONE in kinds:
        yield "null"


def _missing(command: str, names: Sequence[str], options: Sequence[str]) -> str:
    """What has to be given, with its dashes, and where the Trainer's commands usually have it from."""
    bare = [name.removeprefix(f"{command}.") for name in names]
    given = _listed([f"--{name}" if command or f"--{name}" in options else name for name in bare], "and")
    said = f"{given} {'is' if len(bare) == 1 else 'are'} missing"
    if not command:
        return said
    return f"{said}: give a configuration, as {program()} {command} glyphs does; {program()} configs lists them"


def _listed(words: Sequence[str], last: str) -> str:
    """The words in a row: ``a``, ``a or b``, ``a, b, or c``."""
    return f" {last} ".join(words) if len(words) < 3 else f"{', '.join(words[:-1])}, {last} {words[-1]}"


def _meant(given: str, known: Sequence[str], prefix: str = "") -> str:
    near = get_close_matches(given, known, n=1, cutoff=0.8)
    return f" Did you mean {prefix}{near[0]}?" if near else ""
