from pathlib import Path

import pytest
import torch

from metasgd.errors import UserError
from metasgd.runs.checkpoint_schema import FORMAT, upgraded, validate_content

PATH = Path("x.ckpt")
GROUP = {"params": [0], "lr": 0.1}
RUN = {"task_index": 0, "step": 3, "params": {"a": torch.zeros(2)}, "state": {}}
WHOLE = {
    "state_dict": {"a": torch.zeros(2)},
    "epoch": 0,
    "global_step": 4,
    "pytorch-lightning_version": "2.6.6",
    "loops": {"fit_loop": {}},
    "callbacks": {"x": {}},
    "optimizer_states": [{"state": {0: {"step": torch.ones(())}}, "param_groups": [GROUP]}],
    "lr_schedulers": [{}],
    "metasgd_format": 1,
    "metasgd_config": "a: 1",
    "metasgd_made_by": {"optimizer": "Adam", "schedule": "none", "settings": [{"tensors": 1, "betas": [0.9, 0.99]}]},
    "metasgd_skipped": {"total": 0, "in_a_row": 0},
    "metasgd_long_runs": [RUN],
    "of a callback": {"anything": [1, None, {"deep": True}]},
}


def nested(depth):
    value = 0
    for _ in range(depth):
        value = [value]
    return value


def shared(times):
    value = [0]
    for _ in range(times):
        value = [value, value]
    return value


def itself():
    value = {}
    value["x"] = value
    return value


@pytest.mark.parametrize("version", ["2.6", "2.6.0", "2.7.0.dev20260101", "2.6.0rc1", "2.6.1+cu118"])
def test_what_fit_writes_is_taken(version):
    validate_content(PATH, WHOLE | {"pytorch-lightning_version": version})
    validate_content(PATH, {"state_dict": {}})


ODD = [None, -1, 1.5, True, "x", [], {}, [1], {"a": 1}, {1: 2}, [None], torch.zeros(3), torch.zeros(()), nested(60)]
TAKES = {
    "state_dict": [{}],
    "loops": [{}],
    "callbacks": [{}, {"a": 1}],
    "lr_schedulers": [[]],
    "metasgd_config": ["x"],
    "metasgd_long_runs": [[]],
}


@pytest.mark.parametrize("key", [key for key in WHOLE if key != "of a callback"])
def test_each_part_of_another_kind_is_refused(key):
    for odd in ODD:
        content = WHOLE | {key: odd}
        if any(type(odd) is type(taken) and str(odd) == str(taken) for taken in TAKES.get(key, [])):
            validate_content(PATH, content)
            continue
        with pytest.raises(UserError, match=r"the checkpoint x.ckpt (cannot be used|has the format)"):
            validate_content(PATH, content)


@pytest.mark.parametrize(
    "odd", [nested(60), nested(10**5), shared(40), itself(), torch.zeros(2).to_sparse(), torch.ones(1).expand(10**9)]
)
def test_what_cannot_be_walked_is_refused_wherever_it_is(odd):
    for content in (WHOLE | {"of a callback": odd}, WHOLE | {"loops": {"fit_loop": {"x": odd}}}):
        with pytest.raises(UserError, match="x.ckpt cannot be used: it is nested deeper than"):
            validate_content(PATH, content)


@pytest.mark.parametrize(
    "group",
    [
        {"params": [0]},
        {"lr": 0.1},
        {"params": 0, "lr": 0.1},
        {"params": [-1], "lr": 0.1},
        {"params": [0], "lr": "0.1"},
        {"params": [0], "lr": float("nan")},
        {"params": [0], "lr": float("inf")},
        {"params": [0], "lr": torch.zeros(2)},
        [],
    ],
)
def test_a_group_of_an_optimizer_is_whole(group):
    state = {"state": {}, "param_groups": [group]}
    with pytest.raises(UserError, match="its optimizer_states is not the state of one optimizer"):
        validate_content(PATH, WHOLE | {"optimizer_states": [state]})


def test_a_newer_format_says_so():
    with pytest.raises(UserError, match="has the format 2, and this version of metasgd reads up to 1: use the version"):
        validate_content(PATH, WHOLE | {"metasgd_format": 2})


def test_what_came_before_formats_had_numbers_is_read():
    old = {"state_dict": {}, "global_step": 3}
    now = {"metasgd_skipped": {"total": 0, "in_a_row": 0}, "metasgd_long_runs": [], "metasgd_format": FORMAT}
    assert upgraded(old) == old | now
    assert upgraded(WHOLE) == WHOLE
