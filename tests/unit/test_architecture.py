"""The direction in which modules may depend on one another."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "metasgd"
PURE = (
    "episode",
    "rule_options",
    "update_rules",
    "optimizer_network",
    "rule_gradient",
    "task_stack",
    "backwards",
    "by_autograd",
    "by_layers",
    "reading",
    "feed_forward",
    "stem",
    "standardised",
    "batch_norm",
    "rms_norm",
    "layers",
    "loss_forms",
    "products",
    "adaptation",
    "meta_gradient",
    "engines",
    "inner_runs",
    "long_runs",
    "networks",
)


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


@pytest.mark.parametrize("name", PURE)
def test_the_core_knows_neither_lightning_nor_the_data(name):
    forbidden = (
        "lightning",
        "torchmetrics",
        "metasgd.data",
        "metasgd.training.module",
        "metasgd.cli.app",
        "metasgd.training.callbacks.checkpoints",
    )
    assert not [i for i in imports(SOURCE / f"{name}.py") if i.startswith(forbidden)]


def test_episodes_import_nothing_of_ours():
    assert not [i for i in imports(SOURCE / "episode.py") if i.startswith("metasgd")]


def test_the_data_knows_no_network():
    for path in (SOURCE / "data").glob("*.py"):
        allowed = ("metasgd.data", "metasgd.errors", "metasgd.episode", "metasgd.runtime.signals")
        assert not [i for i in imports(path) if i.startswith("metasgd") and not i.startswith(allowed)], path.name
