import math
import re
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from metasgd.data.problems import Examples
from metasgd.supervised.suite import data
from metasgd.supervised.suite.choosing import CHOOSING
from metasgd.supervised.suite.data import Letters, Table, Text, Textures
from metasgd.supervised.suite.languages import LANGUAGES, PAIRS
from metasgd.supervised.suite.workloads import SMALL
from metasgd.supervised.trainer import Candidate

EVERY = [pytest.param(workload, id=workload.name) for workload in (*SMALL, *CHOOSING)]
GENERATED = [pytest.param(p.values[0], id=p.id) for p in EVERY if not isinstance(p.values[0].data, Letters)]


@pytest.fixture(autouse=True)
def few_examples(monkeypatch):
    monkeypatch.setattr(data, "SIZES", {"train": 96, "val": 20, "test": 20})


def few(of):
    return replace(of, rows=96) if isinstance(of, Table) else of


def examples_of(workload):
    """Of letters, stand-ins of the same shape: to draw the real ones takes half a minute."""
    if not isinstance(workload.data, Letters):
        return few(workload.data).examples(Path())
    stream = torch.Generator().manual_seed(0)
    y = torch.arange(96) % 10
    x = torch.randint(0, 256, (10, 1, 28, 28), generator=stream, dtype=torch.uint8)[y]
    made = Examples(x, x.flatten(1).float() / 255 if workload.data.reproduce else y)
    return {"train": made, "val": made, "test": made}


@pytest.mark.parametrize("workload", EVERY)
def test_a_few_steps_lower_the_loss_of_every_workload_the_same_each_time(workload):
    trainer = replace(workload, steps=6, batch_size=32).trainer(examples_of(workload))
    trainer = replace(trainer, eval_every=3)  # an epoch
    candidate = Candidate("AdamW", lambda named, lr: torch.optim.AdamW(named, lr=lr), 0.003)
    traces = [trainer.train(candidate, 0.003, seed=3) for _ in range(2)]
    assert traces[0].val_loss == traces[1].val_loss
    _, first_epoch, second_epoch = traces[0].train_loss
    assert second_epoch < first_epoch
    assert math.isfinite(traces[0].test_loss)


@pytest.mark.parametrize("workload", GENERATED)
def test_an_example_depends_on_seed_split_and_number_alone(workload, monkeypatch):
    first = few(workload.data).examples(Path())
    monkeypatch.setattr(data, "SIZES", {"train": 30, "val": 25, "test": 10})
    fewer = replace(workload.data, rows=30) if isinstance(workload.data, Table) else workload.data
    again = fewer.examples(Path())
    for split, own in again.items():
        n = min(len(own), len(first[split]))
        assert torch.equal(own.x[:n], first[split].x[:n])
        assert torch.equal(own.y[:n], first[split].y[:n])
    assert not torch.equal(first["train"].x[:20], first["val"].x[:20])
    other = replace(fewer, seed=fewer.seed + 1).examples(Path())
    assert not torch.equal(other["train"].x, again["train"].x)


def seeds_in(value):
    """Every seed in a nest of dataclasses."""
    return {value.seed} | {s for f in fields(value) if is_dataclass(getattr(value, f.name)) for s in seeds_in(f)}


def test_what_is_reported_and_what_variants_are_chosen_by_share_neither_name_nor_seed():
    for of in (lambda w: {w.name}, lambda w: seeds_in(w.data), lambda w: {w.description}):
        reported, choosing = (set().union(*map(of, suite)) for suite in (SMALL, CHOOSING))
        assert reported
        assert choosing
        assert not reported & choosing
    letters = [{w.data.split for w in suite if isinstance(w.data, Letters)} for suite in (SMALL, CHOOSING)]
    assert letters == [{"test"}, {"val"}]


@pytest.mark.parametrize("workload", EVERY)
def test_names_say_what_is_no_hidden_layer(workload):
    """Muon leaves the matrices of embeddings and of the head to AdamW by these names."""
    parameters = dict(workload.network().named_parameters())
    assert any(name.startswith("head") for name in parameters)
    tables = {n for n, m in workload.network().named_modules() if isinstance(m, torch.nn.Embedding)}
    assert all(name.startswith("embedding") for name in tables)
    assert all(re.fullmatch("[a-z_]+", workload.name) for _ in parameters)


def test_raw_targets_have_the_mean_and_the_deviation_that_they_are_given(monkeypatch):
    monkeypatch.setattr(data, "SIZES", {"train": 2000, "val": 10, "test": 10})
    y = Table(seed=5, n_features=8, mean=50.0, sd=20.0, rows=2000).examples(Path())["train"].y
    assert y.shape == (2000, 1)
    assert y.mean().item() == pytest.approx(50, abs=1.5)
    assert y.std().item() == pytest.approx(20, abs=1.5)


def test_textures_are_known_by_their_waves():
    """Without noise, a picture's spectrum is zero but at the waves of its class."""
    made = Textures(seed=5, n_classes=3, noise=0.0).examples(Path())["train"]
    spectra = torch.fft.fft2(made.x.double()).abs() > 1e-3
    supports = [spectra[made.y == c].flatten(1) for c in range(3)]
    assert all(len(own) and own.sum(dim=1).max() <= 18 for own in supports)  # 3 waves and their mirrors, 3 colours
    assert not torch.equal(supports[0].any(dim=0), supports[1].any(dim=0))


@pytest.mark.parametrize(("language", "sign"), [("sums", "+"), ("differences", "-")])
def test_lines_are_correct_computations(language, sign):
    for index in range(50):
        line = LANGUAGES[language].line(np.random.default_rng(index))
        a, b, c = re.fullmatch(rf"(\d+)\{sign}(\d+)=(\d+)", line).groups()
        assert int(c[::-1]) == int(a) + int(f"{sign}{b}")
        assert set(line) <= set(LANGUAGES[language].symbols)


def test_brackets_close_in_order():
    for index in range(50):
        line = LANGUAGES["brackets"].line(np.random.default_rng(index))
        assert len(line) == 32
        while any(pair in line for pair in PAIRS):
            for pair in PAIRS:
                line = line.replace(pair, "")
        assert line == ""


def test_the_target_at_every_place_is_the_next_symbol():
    made = Text(seed=1, language="sums").examples(Path())["train"]
    assert made.x.shape == made.y.shape == (96, 11)
    assert torch.equal(made.x[:, 1:], made.y[:, :-1])
