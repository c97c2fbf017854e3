"""The examples in the docstrings of the update rules run."""

import doctest
from importlib import import_module

import pytest

WITH_EXAMPLES = ("adaptive_rates", "alfa", "meta_curvature")


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_run(name):
    found = doctest.testmod(import_module(f"metasgd.rules.{name}"))
    assert found.attempted > 0
    assert found.failed == 0
