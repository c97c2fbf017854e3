"""Which package may import which: read from the folders, so that a new file is held to it without being listed."""

import ast
import functools
import re
import sys
from pathlib import Path

import pytest
from support.runs import ROOT

import metasgd

SOURCE = ROOT / "src" / "metasgd"
FILES = sorted(SOURCE.rglob("*.py"))
PACKAGES = sorted(p.name for p in SOURCE.iterdir() if (p / "__init__.py").is_file())

BELOW = {
    "rules": {"construction", "errors"},
    "nn": {"rules", "construction", "errors"},
    "meta": {"nn", "rules", "errors", "episode", "construction"},
    "optim": {"rules", "runs", "errors"},
    "data": {"construction", "errors", "episode"},
    "runs": {"rules", "construction", "errors"},
    "runtime": {"runs", "errors"},
    "reporting": {"errors", "episode"},
    "rl": {"meta", "data", "errors", "episode"},
    "learner": {"meta", "nn", "rules", "rl", "runs", "data", "errors", "episode"},
}
"""What a package may import of this project, beside itself: what stands to its right in docs/architecture.md."""
BELOW["training"] = BELOW["learner"] | {"learner", "runtime", "reporting", "construction"}
BELOW["supervised"] = BELOW["training"] | {"training", "optim"}
BELOW["cli"] = BELOW["supervised"] | {"supervised"}
OPTION_PATH = re.compile(r"\b(model|data|trainer|last_checkpoint|problem)\.[a-z]|--[a-z]")
NAME_ARGUMENTS = {"rules", "nn", "meta", "data", "rl", "optim", "learner"}
"""Packages whose messages know no command line: an argument is named as Python has it."""
LIGHTNING = {"training", "supervised", "runtime", "cli"}


def nodes_of(path: Path) -> list[ast.AST]:
    """All of a file's syntax tree."""
    return list(ast.walk(ast.parse(path.read_text())))


@functools.cache
def imported(path: Path) -> frozenset[str]:
    """The modules that a file imports, anywhere in it."""
    found = set()
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return frozenset(found)


def package_of(path: Path) -> str:
    parts = path.relative_to(SOURCE).parts
    return parts[0] if len(parts) > 1 else path.stem


def in_packages() -> list:
    return [pytest.param(f, id=str(f.relative_to(SOURCE))) for f in FILES if package_of(f) in PACKAGES]


def test_every_package_has_a_place_in_the_order():
    assert set(BELOW) == set(PACKAGES)


@pytest.mark.parametrize("path", in_packages())
def test_a_package_imports_only_packages_to_its_right(path):
    package = package_of(path)
    ours = {name.split(".")[1] for name in imported(path) if name.startswith("metasgd.")}
    assert ours <= BELOW[package] | {package}


@pytest.mark.parametrize("name", ["construction", "errors", "episode"])
def test_what_all_share_imports_nothing_of_ours(name):
    assert not [i for i in imported(SOURCE / f"{name}.py") if i.startswith("metasgd")]


@pytest.mark.parametrize("path", in_packages())
def test_lightning_and_jsonargparse_stay_where_they_belong(path):
    package, names = package_of(path), {name.split(".")[0] for name in imported(path)}
    if package not in LIGHTNING:
        assert "lightning" not in names
    if package not in ("cli", "learner"):
        assert "jsonargparse" not in names
    if package in ("rules", "nn", "meta", "optim"):
        of_others = {"torchvision", "timm", "safetensors"} if path.parent.name == "backbones" else set()
        assert names <= {"metasgd", "torch", "numpy", *of_others, *sys.stdlib_module_names}


def said_in(path: Path) -> list[str]:
    """The strings of a file that are sentences or their parts: neither docstrings nor the names of modules."""
    tree = nodes_of(path)
    documented = {id(node.value) for node in tree if isinstance(node, ast.Expr)}
    parts = {id(part) for node in tree if isinstance(node, ast.JoinedStr) for part in node.values}
    strings = [n for n in tree if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    return [n.value for n in strings if id(n) not in documented and (id(n) in parts or " " in n.value)]


def test_an_option_path_in_a_message_would_be_found(tmp_path):
    file = tmp_path / "module.py"
    file.write_text(
        '"""As --width 3."""\nraise ValueError(f"model.width is {width}", "set --width", "metasgd.data.x")\n'
    )
    assert [bool(OPTION_PATH.search(said)) for said in said_in(file)] == [True, True]


@pytest.mark.parametrize("path", [f for f in in_packages() if package_of(f.values[0]) in NAME_ARGUMENTS])
def test_messages_name_arguments_and_no_options(path):
    assert not [said for said in said_in(path) if OPTION_PATH.search(said)]


@pytest.mark.parametrize("path", FILES, ids=str)
def test_no_file_is_long(path):
    assert len(path.read_text().splitlines()) <= 250


STARTS_PROCESSES = {"subprocess", "multiprocessing", "support.agents", "support.processes", "support.programs"}
TESTS = sorted((ROOT / "tests").rglob("*.py"))


@pytest.mark.parametrize("path", sorted((ROOT / "tests" / "unit").rglob("*.py")), ids=lambda path: path.stem)
def test_no_unit_test_starts_a_process(path):
    called = {n.func.attr for n in nodes_of(path) if isinstance(n, ast.Call) if isinstance(n.func, ast.Attribute)}
    assert not STARTS_PROCESSES & imported(path)
    assert not {"fork", "posix_spawn", "system", "popen"} & called


def test_no_test_imports_another():
    found = {
        path.name: {m for m in imported(path) if m.rpartition(".")[2].startswith(("test_", "conftest"))}
        for path in TESTS
    }
    assert not {name: modules for name, modules in found.items() if modules}


def test_every_public_name_is_listed_and_can_be_imported():
    assert set(metasgd.__all__) < set(dir(metasgd))
    assert all(getattr(metasgd, name).__name__ == name for name in metasgd.__all__)
