import pytest
import yaml
from jsonargparse._loaders_dumpers import yaml_load
from support.runs import ROOT

from metasgd.runs.plain_yaml import load_yaml


@pytest.mark.parametrize("file", sorted(ROOT.glob("configs/*.yaml")) + sorted(ROOT.glob("checkpoints/*/config.yaml")))
def test_configurations_are_read_as_the_parser_reads_them(file):
    assert load_yaml(file.read_text()) == yaml_load(file.read_text())


@pytest.mark.parametrize(
    "text",
    ["1e-3", "1e5", "-1.5", ".5", ".5e-3", "1_000", ".inf", "-.inf", "2020-01-02", "12:30", "yes", "~", "'1'", "0x1F"],
)
def test_scalars_are_read_as_the_parser_reads_them(text):
    assert load_yaml(f"a: [{text}]") == yaml_load(f"a: [{text}]")


def test_aliases_and_merges_mean_what_they_say():
    assert load_yaml("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: [*a, *a]") == {
        "a": {"x": 1, "y": 2},
        "b": {"x": 1, "y": 3},
        "c": [{"x": 1, "y": 2}] * 2,
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3", "line 3: the key a is there twice"),
        ("x:\n  - {n: 1, n: 1}", "line 2: the key n is there twice"),
        ("[" * 51 + "]" * 51, "nested deeper than 50"),
        ("[" * 1_000_000, "nest"),
        ("{a: " * 100_000, "nest"),
        ("- " * 500_000, "nested deeper than 50"),
        ("a: &a [*a]", "an alias is nested in what it stands for"),
        ("a: &a {b: {c: *a}}", "an alias is nested in what it stands for"),
        ("&a [&b [*a]]", "an alias is nested in what it stands for"),
        (
            "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10) if i else 'x'}]" for i in range(30)),
            "more than 100000 values",
        ),
        ("- &a {a: b}\n- {<<: [*a, *a], <<: *a}", "the key << is there twice"),
        ("x" * (2**20 + 1), "at most 1048576 are read"),
        ("a: !!python/object/apply:os.system [ls]", "the tag tag:yaml.org,2002:python/object/apply:os.system"),
        ("a: !!set {b}", "the tag tag:yaml.org,2002:set"),
        ("a: !!binary aGk=", "the tag tag:yaml.org,2002:binary"),
        ("a: !mine b", "the tag !mine"),
        ("? [a]\n: b", "a key is no plain value"),
        ("a: " + "9" * 5000, "integer string conversion"),
    ],
)
def test_what_is_not_what_it_seems_is_refused(text, said):
    with pytest.raises(yaml.YAMLError, match=said):
        load_yaml(text)


@pytest.mark.parametrize(
    "text",
    ["{", "a: b: c", "a: *b", "\x00", "!!int x", "--- a\n--- b", "@", "!!float y", "!!bool x", "!!int ''", "!!str [a]"],
)
def test_what_is_no_yaml_is_refused_as_such(text):
    with pytest.raises(yaml.YAMLError):
        load_yaml(text)
