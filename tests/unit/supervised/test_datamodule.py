"""A supervised run is resumed on the examples that it began with."""

import pytest

from metasgd.data.problems import Curve, Examples
from metasgd.errors import UserError
from metasgd.supervised.datamodule import LoadedData, SupervisedData


def data(points=60):
    made = SupervisedData(Curve(points=points), LoadedData(), batch_size=7, seed=0)
    made.setup("fit")
    return made


def test_the_same_examples_are_resumed_with():
    data().load_state_dict(data().state_dict())
    data().load_state_dict({})  # of a run that recorded none


def test_other_examples_are_refused_with_the_splits_that_differ():
    changed = data()
    x, y = changed.examples["train"].x.clone(), changed.examples["train"].y
    x[3] += 1e-3
    changed.examples["train"] = Examples(x, y)
    with pytest.raises(UserError, match=r"those of train differ\. Put the data back"):
        changed.load_state_dict(data().state_dict())
