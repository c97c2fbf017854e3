"""YAML of bounded size whose keys are unique and whose values are plain: that of configurations, also of strangers."""

import re
from typing import Any

import yaml

MOST_CHARACTERS = 2**20
MOST_NODES = 100_000
"""With every alias counted as what it stands for."""
DEEPEST = 50
PLAIN_TAGS = tuple(
    f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map", "merge")
)
_FLOAT = re.compile(
    r"""[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?
    |[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+
    |\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?
    |[-+]?\.(?:inf|Inf|INF)
    |\.(?:nan|NaN|NAN)""",
    re.VERBOSE,
)
_BASE: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class YamlRefused(yaml.YAMLError):
    """YAML that is well formed, but not taken."""


class _Loader(_BASE):
    """Floats as in YAML 1.2 (``1e-3``), and no dates: as the parser of configurations reads them."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - as yaml has it
        first: [
            *((tag, form) for tag, form in resolvers if not tag.endswith((":timestamp", ":float"))),
            *(
                [("tag:yaml.org,2002:float", re.compile(rf"^(?:{_FLOAT.pattern})$", re.VERBOSE))]
                if first in "-+.0123456789"
                else []
            ),
        ]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def load_yaml(text: str) -> Any:
    """What the YAML says, in dictionaries, lists, strings, numbers, true, false and null.

    Raises:
        yaml.YAMLError: it is none, or refused by ``validate_yaml``.
    """
    validate_yaml(text)
    try:
        return yaml.load(text, Loader=_Loader)
    except (ValueError, LookupError) as error:  # of a number that Python does not convert, or a tag that does not fit
        raise YamlRefused(f"a value cannot be converted ({error})") from error


def validate_yaml(text: str) -> None:
    """Refuse YAML that Python could not hold, or whose meaning is not what a reader sees; build nothing.

    Raises:
        yaml.YAMLError: the text is no YAML, longer than ``MOST_CHARACTERS``, nested deeper than ``DEEPEST``, has more
            than ``MOST_NODES`` values, an alias within what it stands for, a key twice, or a tag that is not plain.
    """
    if len(text) > MOST_CHARACTERS:
        raise YamlRefused(f"it has {len(text)} characters, and at most {MOST_CHARACTERS} are read")
    depth = 0
    for event in yaml.parse(text, Loader=_BASE):  # which does not recurse
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise YamlRefused(f"{_place(event.start_mark)}it is nested deeper than {DEEPEST} levels")
    root = yaml.compose(text, Loader=_Loader)
    if root is not None:
        _count(root, 0)


def _count(node: yaml.Node, depth: int, others: int = 0) -> int:
    """How many values a node stands for, with the ``others`` that were counted before it."""
    total = others + 1
    line = _place(node.start_mark)
    if node.tag not in PLAIN_TAGS:
        raise YamlRefused(f"{line}the tag {node.tag} is none of a configuration: write plain values")
    if depth > DEEPEST:  # which the text is not
        raise YamlRefused(f"{line}an alias is nested in what it stands for, or aliases deeper than {DEEPEST} levels")
    if total > MOST_NODES:
        raise YamlRefused(f"{line}with its aliases written out it has more than {MOST_NODES} values")
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise YamlRefused(f"{_place(key.start_mark)}a key is no plain value")
            if key.value in seen:
                raise YamlRefused(f"{_place(key.start_mark)}the key {key.value} is there twice: keep one")
            seen.add(key.value)
            total = _count(value, depth + 1, _count(key, depth + 1, total))
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            total = _count(value, depth + 1, total)
    return total


def _place(mark: Any) -> str:
    return f"line {mark.line + 1}: "
