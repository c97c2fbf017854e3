"""What a public name says of itself: its arguments, and an example that runs."""

import doctest
import inspect
from importlib import import_module

import pytest

PACKAGES = ("metasgd", "metasgd.nn", "metasgd.rules", "metasgd.data")
NEED_MORE = {"fit", "pretrained", "MetaSGDModule"}
"""Trainings of minutes, and a download: not all of their examples is run."""


def public(package):
    module = import_module(package)
    names = getattr(module, "__all__", None) or dir(module)
    return {name: getattr(module, name) for name in names if not name.startswith("__")}


PUBLIC = {name: made for package in PACKAGES for name, made in public(package).items()}


@pytest.mark.parametrize("name", PUBLIC)
def test_the_example_of_a_public_name_runs(name):
    made = PUBLIC[name]
    finder, runner = doctest.DocTestFinder(recurse=False), doctest.DocTestRunner()
    [found] = finder.find(made, name, globs=dict(vars(import_module(made.__module__))))
    assert found.examples, f"{name} has no example"
    skipped = any(example.options.get(doctest.SKIP) for example in found.examples)
    assert skipped == (name in NEED_MORE)
    said = []
    runner.run(found, out=said.append)
    assert runner.failures == 0, "".join(said)


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_documents_its_arguments(name):
    made = PUBLIC[name]
    documented = "\n".join(inspect.getdoc(c) or "" for c in getattr(made, "__mro__", [made]))
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    arguments = [p.name for p in inspect.signature(made).parameters.values() if p.kind not in variable]
    assert not [name for name in arguments if f"    {name}: " not in documented]
    assert "Args:" in documented or "Attributes:" in documented or not arguments


@pytest.mark.parametrize("name", [name for name, made in PUBLIC.items() if inspect.isclass(made)])
def test_public_methods_are_documented_there_or_where_they_are_inherited_from(name):
    methods = {n: m for n, m in vars(PUBLIC[name]).items() if callable(m) and not n.startswith("_")}
    assert not [n for n in methods if not inspect.getdoc(getattr(PUBLIC[name], n))]
