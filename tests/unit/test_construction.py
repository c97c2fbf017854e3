import copy
import pickle
from functools import partial

import pytest
import torch
from torch import nn

from metasgd.construction import Configurable, NotWritableError, class_path, configuration_of, named
from metasgd.data import Glyphs, ImageFolder, Sinusoid
from metasgd.data.source import Source
from metasgd.learner.load import built
from metasgd.nn import MLP, Backbone, Conv4
from metasgd.rules import InnerAdam, OptimizerNetwork, PerLayerPerStep, PerParameter, UpdateRule

OBJECTS = {
    "convolutions": (Conv4, lambda: Conv4(7, width=[4, 8, 8, 4], head="prototype")),
    "layers": (MLP, lambda: MLP(3, (5, 6))),
    "a backbone": (Backbone, lambda: Backbone("mobilenet_v3_small", image_size=32)),
    "rates": (PerParameter, lambda: PerParameter((0.01, 0.02), bounds=(0.0, 1.0))),
    "rates of steps": (PerLayerPerStep, lambda: PerLayerPerStep(0.3)),
    "Adam": (InnerAdam, InnerAdam),
    "an optimizer network": (OptimizerNetwork, lambda: OptimizerNetwork(0.02, momentum=0.1)),
}


@pytest.mark.parametrize("name", OBJECTS)
def test_what_is_written_makes_the_same_again(name):
    kind, make = OBJECTS[name]
    made = make()
    written = configuration_of(made)
    assert written["class_path"].startswith(("metasgd.nn.", "metasgd.rules."))
    again = built(kind, written["init_args"], "it", trust=False, weights={})
    assert configuration_of(again) == written
    assert repr(again) == repr(made)
    shapes = [{n: t.shape for n, t in m.state_dict().items()} for m in (made, again)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("source", [Sinusoid(), Glyphs(), ImageFolder(image_size=20)])
def test_sources_are_written_too(source):
    written = configuration_of(source)
    assert configuration_of(built(Source, written, "it", trust=False)) == written


def test_copies_remember():
    network = Conv4(n_way=3, width=4)
    for copied in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert configuration_of(copied) == configuration_of(network)
        assert copied.state_dict().keys() == network.state_dict().keys()


class Own(UpdateRule):
    """A rule that changes what it was given."""

    def __init__(self, rate, *, names=("a",)):
        super().__init__()
        self.rate = 2.0 if isinstance(rate, nn.Module) else 2 * rate
        rate = None


class AnyOptions(Configurable):
    def __init__(self, *sizes, **options):
        pass


def test_what_was_given_counts_and_not_what_was_made_of_it():
    assert configuration_of(Own(0.5)) == {
        "class_path": f"{__name__}.Own",
        "init_args": {"rate": 0.5, "names": ["a"]},
    }
    assert configuration_of(AnyOptions(a=1))["init_args"] == {"a": 1}
    with pytest.raises(TypeError, match=r"Sinusoid\(\) takes no arguments"):
        Sinusoid(1)


def test_functions_and_classes_go_by_their_names():
    assert configuration_of(torch.optim.Adam) == "torch.optim.Adam"
    assert configuration_of(partial(torch.optim.Adam, lr=0.1)) == {
        "class_path": "torch.optim.Adam",
        "init_args": {"lr": 0.1},
    }
    assert class_path(torch.nn.functional.relu) == "torch.nn.functional.relu"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (nn.Linear(1, 2), "torch.nn.Linear does not remember"),
        (Own(nn.Linear(1, 2)), "torch.nn.Linear does not remember"),
        (lambda: None, "cannot be imported by its name"),
        (AnyOptions(1), r"its arguments \*sizes have no names"),
    ],
)
def test_what_cannot_be_written_says_so(value, said):
    with pytest.raises(NotWritableError, match=said):
        configuration_of(value)


def test_a_path_leads_to_classes_functions_and_classes_in_classes():
    assert named("metasgd.nn.Conv4") is Conv4
    assert named("torch.nn.functional.relu") is torch.nn.functional.relu
    assert named("functools.partial.__class__") is type


def test_a_path_leads_nowhere():
    assert named("metasgd.nn.Conv5") is None
    assert named("no_such_package.Net") is None
    assert named("torch.classes.nowhere.Net") is None
    assert named("Net") is None


def test_modules_that_their_package_hides_are_found(tmp_path, monkeypatch):
    (tmp_path / "hiding").mkdir()
    (tmp_path / "hiding" / "__init__.py").write_text("from hiding.net import net\n")
    (tmp_path / "hiding" / "net.py").write_text("class Net:\n    pass\n\n\ndef net():\n    return Net()\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = named("hiding.net.Net")
    assert found.__qualname__ == "Net"
    assert class_path(found) == "hiding.net.Net"
    assert named("torch.optim.adam.Adam") is torch.optim.Adam  # torch deletes torch.optim.adam
