"""Which learner the options of adapt ask for."""

import pytest

from metasgd.cli.adapt_learner import given_learner
from metasgd.errors import UserError


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "--ckpt_path and --backbone are both missing: give a checkpoint"),
        ({"ckpt_path": "omniglot", "backbone": "resnet18"}, "--ckpt_path and --backbone are both given"),
        ({"ckpt_path": "omniglot", "weights": "w.pt"}, "--weights is w.pt, but there is no --backbone"),
        ({"backbone": "resnet18", "inner_steps": 2}, "--inner_steps is 2, but a backbone has no learned rates"),
        ({"backbone": "resnet19"}, "--backbone is 'resnet19'.*Near names: resnet18"),
        ({"backbone": "resnet18", "weights": "gone"}, "--weights is gone, which is no file here, nor one of"),
        (
            {"ckpt_path": "omniglt"},
            "--ckpt_path is omniglt, which is neither a file nor the name .*one of glyphs, omni",
        ),
        ({"ckpt_path": "sinusoid"}, "--ckpt_path is sinusoid, which was not trained to tell pictures apart"),
    ],
)
def test_what_cannot_be_adapted_is_one_message(options, said):
    arguments = {"ckpt_path": None, "backbone": None, "weights": None, "inner_steps": None, "trust": False}
    with pytest.raises(UserError, match=said) as it:
        given_learner(**{**arguments, **options})
    assert len(it.value.problems) == 1


def test_a_checkpoint_is_found_by_its_name():
    given = given_learner("omniglot", None, None, None, False)
    assert given.ink == "light"
    assert given.form.channels == 1
    assert given.files[0].endswith("checkpoints/omniglot/model.ckpt")
