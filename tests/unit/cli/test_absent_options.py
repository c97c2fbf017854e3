import logging

import torch

from metasgd.cli.absent_options import without_absent_options


def config(**options):
    optimizer = {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.1, **options}}
    return {"model": {"outer": {"optimizer": optimizer}, "network": {"class_path": "x.Y", "init_args": {"z": None}}}}


def test_unused_options_that_this_torch_lacks_are_left_out_in_one_line(caplog):
    with caplog.at_level(logging.INFO):
        found = without_absent_options(config(of_another_version=False, of_yet_another=None))
    assert found == config()
    assert caplog.messages == [
        f"torch.optim.Adam of torch {torch.__version__} has no {name}, which is left out"
        for name in ("of_another_version", "of_yet_another")
    ]


def test_options_that_are_used_or_known_stay(caplog):
    for whole in (config(of_another_version=True), config(amsgrad=False, foreach=None), {"a": [1]}, [None], 3):
        assert without_absent_options(whole) == whole
    assert caplog.messages == []
