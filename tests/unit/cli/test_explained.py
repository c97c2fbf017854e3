"""The messages of jsonargparse in fewer words."""

from metasgd import rules
from metasgd.cli.choices import CHOICES, with_full_paths
from metasgd.cli.explained import class_help, explained


def test_other_messages_stay_as_they_are():
    assert explained("File does not exist", []) == "File does not exist"
    unable = "Parser key \"model.outer\":\nUnable to load config 'x'"
    assert explained(unable, []) == unable


def test_of_several_types_the_first_class_is_meant():
    """Which is that of the value; the others take it for an option of their own base class."""
    message = """Parser key "trainer.callbacks":
  Does not validate against any of the Union subtypes
  Subtypes: [list[lightning.pytorch.callbacks.callback.Callback], <class 'NoneType'>]
  Errors:
    - Problem with given class_path 'lightning.pytorch.callbacks.EarlyStopping':
        Parser key "patience":
          Expected a <class 'int'>. Got value: x
    - Problem with given class_path 'lightning.Callback':
        Option 'patience' is not accepted
    - Expected a <class 'NoneType'>
  Given value: NestedArg(key='patience', val='x')"""
    assert explained(message, []) == "trainer.callbacks.init_args.patience is x: a whole number is needed"
    of_class = "--trainer.callbacks.help lightning.pytorch.callbacks.EarlyStopping"
    assert class_help(message, ["--trainer.callbacks.help"]) == of_class
    assert class_help(message, []) == "--help"


def test_every_update_rule_is_a_choice():
    names = {cls.__name__ for cls in CHOICES["model.update_rule"]}
    assert names == {*rules.__all__} - {"UpdateRule"}


def test_names_are_replaced_where_they_are_choices_alone():
    config = {"model": {"network": "MLP", "loss": "mse"}, "run": {"name": "MLP"}}
    assert with_full_paths(config) == {"model": {"network": "metasgd.nn.MLP", "loss": "mse"}, "run": {"name": "MLP"}}
    assert with_full_paths([1, None]) == [1, None]
    for option, classes in CHOICES.items():
        paths = {with_full_paths(cls.__name__, option) for cls in classes}
        assert len(paths) == len(classes)
        assert all(path.startswith("metasgd.") for path in paths)
