import copy
import math
from pathlib import Path

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Timer
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, OneCycleLR, ReduceLROnPlateau, SequentialLR, StepLR

from metasgd.errors import UserError
from metasgd.training.callbacks.checkpoints import BestCheckpoint
from metasgd.training.saved_states import MOVED, validate_optimizer, validate_progress, validate_schedule

PATH = Path("x.ckpt")
OPTIMIZERS = {
    "Adam": (torch.optim.Adam, {}),
    "fused Adam": (torch.optim.Adam, {"fused": True, "amsgrad": True}),
    "AdamW": (torch.optim.AdamW, {"foreach": True}),
    "SGD": (torch.optim.SGD, {"lr": 0.1}),
    "momentum": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    "RMSprop": (torch.optim.RMSprop, {"momentum": 0.5, "centered": True}),
    "Adagrad": (torch.optim.Adagrad, {}),
    "Adadelta": (torch.optim.Adadelta, {}),
    "Adafactor": (torch.optim.Adafactor, {}),
    "Adamax": (torch.optim.Adamax, {}),
    "NAdam": (torch.optim.NAdam, {}),
    "RAdam": (torch.optim.RAdam, {}),
    "Rprop": (torch.optim.Rprop, {}),
    "ASGD": (torch.optim.ASGD, {}),
}


def made(name):
    cls, settings = OPTIMIZERS[name]
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    frozen = nn.Parameter(torch.ones(5))
    return cls([{"params": [*network.parameters()]}, {"params": [frozen]}], **settings)


def trained(name):
    """Its state after two steps in which one parameter had no gradient."""
    optimizer = made(name)
    for _ in range(2):
        for p in optimizer.param_groups[0]["params"]:
            p.grad = torch.randn_like(p)
        optimizer.step()
    return optimizer.state_dict()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_state_that_the_same_optimizer_left_is_taken_and_leaves_the_new_one_as_it_was(name):
    optimizer = made(name)
    before = copy.deepcopy([p.detach() for group in optimizer.param_groups for p in group["params"]])
    state = copy.deepcopy(optimizer.state_dict())
    validate_optimizer(PATH, trained(name), optimizer)
    assert all(
        torch.equal(a, b) for a, b in zip(before, [p for g in optimizer.param_groups for p in g["params"]], strict=True)
    )
    assert all(p.grad is None for group in optimizer.param_groups for p in group["params"])
    assert str(optimizer.state_dict()) == str(state)


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "SGD"])
def test_states_of_other_shapes_numbers_and_names_are_refused(name):
    whole = trained(name)
    for part, value in whole["state"][0].items():
        if not isinstance(value, torch.Tensor):
            continue
        odd = [torch.zeros(7), torch.zeros(*value.shape, 2), torch.full_like(value, float("nan")), None, 3, "x"]
        for other in (*odd, torch.full_like(value, float("inf"))):
            state = copy.deepcopy(whole)
            state["state"][0][part] = other
            with pytest.raises(
                UserError, match=rf"x.ckpt cannot be trained on as configured: its optimizer's {part} of"
            ):
                validate_optimizer(PATH, state, made(name))
        state = copy.deepcopy(whole)
        del state["state"][0][part]
        if state["state"][0]:
            with pytest.raises(UserError, match=f"has other states of a parameter of shape .3, 4.: {part}"):
                validate_optimizer(PATH, state, made(name))
    state = copy.deepcopy(whole)
    state["state"][0]["more"] = torch.zeros(3, 4)
    with pytest.raises(UserError, match="other states of a parameter of shape .3, 4.: more"):
        validate_optimizer(PATH, state, made(name))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_settings_of_another_kind_or_value_are_refused(name):
    whole = trained(name)
    for setting, value in whole["param_groups"][0].items():
        if setting in ("params", "foreach", "fused", "capturable"):
            continue
        for other in ({}, [[]], torch.zeros(3), "x", float("nan")):
            state = copy.deepcopy(whole)
            state["param_groups"][0][setting] = other
            with pytest.raises(UserError, match=f"its optimizer('s| has) {setting}"):
                validate_optimizer(PATH, state, made(name))
        if setting not in MOVED and isinstance(value, float):
            state["param_groups"][0][setting] = value + 0.5
            with pytest.raises(
                UserError, match=f"its optimizer has {setting} {value + 0.5}, the configured one {value}"
            ):
                validate_optimizer(PATH, state, made(name))


def test_what_a_root_is_taken_of_is_not_negative():
    for part in ("step", "exp_avg_sq"):
        state = trained("Adam")
        state["state"][0][part] -= 10
        with pytest.raises(UserError, match=f"{part} of a parameter of shape .3, 4. is negative"):
            validate_optimizer(PATH, state, made("Adam"))


@pytest.mark.parametrize("numbers", [[0, 1, 2, 2], [0, 1, 2, 9]])
def test_parameters_that_are_not_there_are_refused(numbers):
    state = trained("Adam")
    state["param_groups"][0]["params"] = numbers
    with pytest.raises(UserError, match="numbers parameters that are not there"):
        validate_optimizer(PATH, state, made("Adam"))


SCHEDULES = {
    "LambdaLR": lambda o: LambdaLR(o, lambda t: 0.5**t),
    "StepLR": lambda o: StepLR(o, 3),
    "Cosine": lambda o: CosineAnnealingLR(o, 10),
    "OneCycle": lambda o: OneCycleLR(o, 0.1, 10),
    "Plateau": lambda o: ReduceLROnPlateau(o),
    "Sequential": lambda o: SequentialLR(o, [StepLR(o, 1), StepLR(o, 2)], [3]),
}


@pytest.mark.filterwarnings("ignore:.*scheduler.*")
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedules_own_state_is_taken_and_odd_ones_are_refused(name):
    optimizer = made("momentum")
    scheduler = SCHEDULES[name](optimizer)
    optimizer.step()
    scheduler.step(*([1.0] if name == "Plateau" else []))
    whole = copy.deepcopy(scheduler.state_dict())
    fresh = SCHEDULES[name](made("momentum"))
    validate_schedule(PATH, whole, fresh)
    for part, value in whole.items():
        odd = [{}, [[]], "x", torch.zeros(3), float("nan")]
        for other in odd:
            if type(other) is type(value) or fresh.state_dict()[part] is None:
                continue
            with pytest.raises(UserError, match=f"its schedule's {part}"):
                validate_schedule(PATH, whole | {part: other}, fresh)
    for stray in ("optimizer", "step", "get_lr", "state_dict"):
        if hasattr(fresh, stray):
            with pytest.raises(UserError, match=f"its schedule has a state {stray}, which is none"):
                validate_schedule(PATH, whole | {stray: 3}, fresh)
    validate_schedule(PATH, {n: v for n, v in whole.items() if n != "_is_initial"} | {"verbose": False}, fresh)


@pytest.fixture(scope="module")
def trainer():
    return Trainer(
        logger=False,
        accelerator="cpu",
        enable_progress_bar=False,
        callbacks=[BestCheckpoint("mse", higher_is_better=False)],
    )


def saved(trainer):
    loops = {
        name: getattr(trainer, name).state_dict() for name in ("fit_loop", "validate_loop", "test_loop", "predict_loop")
    }
    loops["fit_loop"]["state_dict"] = {"combined_loader": [{}]}
    best = trainer.checkpoint_callback
    state = best.state_dict() | {
        "best_model_path": "b",
        "best_model_score": torch.tensor(1.0),
        "kth_value": torch.tensor(1.0),
    }
    return {"loops": loops, "callbacks": {best.state_key: state, "of a stranger": 3}, "global_step": 0}


def places(value, at=()):
    """The places of all values in nested dictionaries."""
    for key, below in value.items():
        yield (*at, key)
        if isinstance(below, dict):
            yield from places(below, (*at, key))


def altered(value, place, other):
    value = copy.deepcopy(value)
    at = value
    for key in place[:-1]:
        at = at[key]
    at[place[-1]] = other
    return value


def test_what_lightning_writes_is_taken(trainer):
    validate_progress(PATH, saved(trainer), trainer)
    validate_progress(PATH, {}, trainer)


def test_no_loop_of_other_parts_is_taken(trainer):
    whole = saved(trainer)
    for place in places(whole["loops"]["fit_loop"]):
        for odd in (None, -1, 1.5, "x", [], [None], torch.zeros(2)):
            if place[-1] == "combined_loader" and odd == []:
                continue
            with pytest.raises(UserError, match="x.ckpt cannot be trained on as configured: its fit_loop"):
                validate_progress(PATH, altered(whole, ("loops", "fit_loop", *place), odd), trainer)
    for name in ("fit_loop", "validate_loop", "test_loop", "predict_loop"):
        with pytest.raises(UserError, match=f"its loops lack {name}"):
            validate_progress(PATH, {"loops": {n: v for n, v in whole["loops"].items() if n != name}}, trainer)


def test_steps_that_the_loops_have_not_done_are_refused(trainer):
    with pytest.raises(UserError, match="its global_step is 7, but its loops have done 0 steps"):
        validate_progress(PATH, saved(trainer) | {"global_step": 7}, trainer)


def test_no_state_of_a_known_callback_of_other_parts_is_taken(trainer):
    whole, best = saved(trainer), trainer.checkpoint_callback
    for part in best.state_dict():
        for odd in ({}, [], torch.zeros(2), {"x": 1}):
            if part == "best_k_models" and isinstance(odd, dict):
                continue
            with pytest.raises(UserError, match=f"its BestCheckpoint's {part}"):
                validate_progress(PATH, altered(whole, ("callbacks", best.state_key, part), odd), trainer)
    for odd in (3, [], None):
        if odd is not None:
            with pytest.raises(UserError, match="its BestCheckpoint is a"):
                validate_progress(PATH, altered(whole, ("callbacks", best.state_key), odd), trainer)
    state = {n: v for n, v in best.state_dict().items() if n != "kth_value"}
    lacking = altered(whole, ("callbacks", best.state_key), state)
    with pytest.raises(UserError, match="its BestCheckpoint lacks kth_value"):
        validate_progress(PATH, lacking, trainer)


def test_a_timer_resumes_from_fractions_of_a_second():
    timer = Timer(duration="00:00:01:00")
    trainer = Trainer(accelerator="cpu", max_steps=4, logger=False, enable_checkpointing=False, callbacks=[timer])
    content = {"callbacks": {timer.state_key: {"time_elapsed": {"train": 4.93, "sanity_check": 0.0, "validate": 0.1}}}}
    content["callbacks"][timer.state_key]["time_elapsed"] |= {"test": 0, "predict": 0}
    validate_progress(PATH, content, trainer)
    for odd in (math.nan, math.inf, None, "4", [4.93]):
        state = altered(content, ("callbacks", timer.state_key, "time_elapsed", "train"), odd)
        with pytest.raises(UserError, match="its Timer's time_elapsed.train is .*, not a finite number"):
            validate_progress(PATH, state, trainer)
