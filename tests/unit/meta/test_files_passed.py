"""How many files of this project a reader of one meta-gradient has to open."""

import sys
from dataclasses import replace
from types import FrameType

import pytest
from support.by_hand import config_of, tasks_of

from metasgd.meta.meta_gradient import meta_gradient
from metasgd.nn import Conv4
from metasgd.rules import PerParameter


@pytest.mark.parametrize(("closed_form", "most"), [(False, 10), (True, 14)])
def test_one_meta_gradient_passes_through_few_files(closed_form, most):
    config = replace(config_of(Conv4(width=3, image_size=8), PerParameter(0.01), 2), closed_form=closed_form)
    task, files = tasks_of(1, 3, 1, 2, (1, 8, 8)), set()

    def note(frame: FrameType, event: str, argument: object) -> None:
        path = frame.f_code.co_filename
        if "/metasgd/" in path:
            files.add(path.rpartition("/metasgd/")[2])

    meta_gradient(config, config.theta, task, 2)  # what the configuration caches about its network is read once
    before = sys.getprofile()
    sys.setprofile(note)
    try:
        meta_gradient(config, config.theta, task, 2)
    finally:
        sys.setprofile(before)
    assert {"meta/meta_gradient.py", "meta/checkpointing.py", "rules/base.py"} < files
    assert len(files) <= most, sorted(files)
