import json
import math
from functools import partial

import pytest
import torch
from upath import UPath

from metasgd.data.problems import Curve, ShuffledBatches
from metasgd.errors import UserError
from metasgd.meta.objectives import OBJECTIVES
from metasgd.nn.networks import MLP
from metasgd.optim.learned_optimizer import LearnedOptimizer
from metasgd.rules.optimizer_network import OptimizerNetwork
from metasgd.runs.strict_json import as_bytes
from metasgd.supervised.comparison import BASELINES, Effort, compare
from metasgd.supervised.report import Protocol, as_json, common_target, figure, summary, table
from metasgd.supervised.run_cache import RunCache
from metasgd.supervised.trainer import Candidate, SupervisedTrainer, Trace

SGD = BASELINES["SGD"][0]


def trainer(tmp_path, steps=8, **options):
    examples = Curve(points=40, held_out=20).examples(tmp_path, tmp_path)
    settings = {"batch_size": 10, "eval_every": 4, "device": torch.device("cpu"), **options}
    return SupervisedTrainer(partial(MLP, 1, [8], 1), examples, OBJECTIVES["mse"], steps, **settings)


def test_the_same_seed_is_the_same_training_whatever_the_optimizer_is_called(tmp_path):
    traces = [trainer(tmp_path).train(Candidate(name, SGD, 0.01), 0.01, seed=3) for name in "ab"]
    assert traces[0].val_loss == traces[1].val_loss
    other = trainer(tmp_path).train(Candidate("a", SGD, 0.01), 0.01, seed=4)
    assert traces[0].val_loss[0] != other.val_loss[0]
    assert traces[0].steps == [0, 4, 8]
    assert traces[0].seconds[0] == 0 < traces[0].seconds[1] < traces[0].seconds[2]


def test_a_learned_optimizer_with_constant_answers_ends_where_sgd_does(tmp_path):
    def learned(params, lr):
        return LearnedOptimizer(params, update_rule=OptimizerNetwork(0.01, 0.5), lr=lr, max_update=math.inf)

    def momentum(params, lr):
        return torch.optim.SGD(params, lr=0.01 * lr, momentum=0.5)

    ours, theirs = (trainer(tmp_path).train(Candidate("x", make, 1.0), 1.0, 0) for make in (learned, momentum))
    assert ours.test_metric == pytest.approx(theirs.test_metric, rel=1e-5)


def test_the_cosine_schedule_is_torchs(tmp_path):
    made = trainer(tmp_path)
    candidate = Candidate("x", SGD, 0.01, schedule="cosine")
    trace = made.train(candidate, 0.01, seed=0)
    torch.manual_seed(0)
    network = made.network()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    for s, rows in enumerate(ShuffledBatches(40, 10, 8, 0)):
        optimizer.param_groups[0]["lr"] = 0.01 * 0.5 * (1 + math.cos(math.pi * s / 8))
        optimizer.zero_grad()
        x, y = made.examples["train"].x[rows], made.examples["train"].y[rows]
        torch.nn.functional.mse_loss(network(x), y).backward()
        optimizer.step()
    test = made.examples["test"]
    expected = torch.nn.functional.mse_loss(network(test.x), test.y).item()
    assert trace.test_metric == pytest.approx(expected, rel=1e-5)


class Scripted:
    """A trainer whose metric is best at one learning rate."""

    class objective:
        higher_is_better = True
        metric = "accuracy"

    better = SupervisedTrainer.better

    def __init__(self, best, diverges_above=math.inf):
        self.best, self.diverges_above, self.asked = best, diverges_above, []

    def train(self, candidate, lr, seed):
        self.asked.append((candidate.name, lr, seed))
        metric = -abs(math.log(lr / self.best))
        return Trace([0, 1], [0.0, 1.0], [math.nan, 1.0], [2.0, 1.0], [0.0, metric], metric, lr > self.diverges_above)


def compared(scripted, candidate, seeds=(0, 1), trials=3, most_trials=6):
    said = []
    effort = Effort(seeds, 9, trials, most_trials)
    rows = compare(scripted.train, scripted.better, [candidate], effort, said.append)
    assert len(said) == len(scripted.asked)
    return rows[0]


def test_the_search_takes_the_best_and_trains_it_with_the_other_seeds():
    scripted = Scripted(best=0.1)
    row = compared(scripted, Candidate("x", SGD, 0.1))
    assert row.lr == pytest.approx(0.1)
    assert [seed for _, _, seed in scripted.asked] == [9, 9, 9, 0, 1]
    assert len(row.trials) == 3
    assert len(row.traces) == 2


@pytest.mark.parametrize(("best", "tried", "found"), [(10, 6, 0.1 * 10**2), (1e-9, 6, 0.1 * 10**-2), (0.32, 4, 0.316)])
def test_the_search_continues_beyond_its_edge_within_its_budget(best, tried, found):
    row = compared(Scripted(best), Candidate("x", SGD, 0.1))
    assert len(row.trials) == tried
    assert row.lr == pytest.approx(found, rel=0.01)


def test_what_diverges_is_not_chosen():
    row = compared(Scripted(best=10, diverges_above=0.2), Candidate("x", SGD, 0.1))
    assert row.lr == pytest.approx(0.1)
    assert sum(map(math.isnan, row.trials.values())) == 1


def test_what_is_not_tuned_is_tried_but_not_chosen():
    row = compared(Scripted(best=10), Candidate("learned", SGD, 1.0, tuned=False))
    assert row.lr == 1
    assert sorted(row.trials) == pytest.approx([10**-0.5, 1, 10**0.5])


def test_a_training_that_diverges_ends_and_is_reported(tmp_path):
    trace = trainer(tmp_path, steps=400).train(Candidate("x", SGD, 1e6), 1e6, 0)
    assert trace.diverged
    assert trace.steps[-1] < 400


def test_the_table_has_the_best_row_first_and_all_that_was_found():
    names = {"worse": 0.5, "learned": 0.1, "better": 0.09}
    rows = [
        compared(Scripted(best), Candidate(name, SGD, 0.1 if name != "learned" else 1.0, tuned=name != "learned"))
        for name, best in names.items()
    ]
    protocol = Protocol("accuracy", True, 1, 2, 3, 6, common_target(rows))
    assert protocol.target_loss == 1.0
    printed = table(rows, protocol, "title")
    first = list(printed.columns[0].cells)
    figures = [summary(row, protocol) for row in rows]
    best = sorted(figures, key=lambda s: -s["test/accuracy"])
    assert first == [s["optimizer"] for s in best]
    assert figures[1]["tuned"] is False
    assert figures[1]["steps_to_target"] == 1
    assert figures[0]["seconds_per_step"] == 1.0
    assert "untuned" in list(printed.columns[1].cells)
    whole = as_json(rows, protocol)
    assert [len(row["traces"]) for row in whole["rows"]] == [2, 2, 2]
    drawn = figure(rows, protocol, "title")
    assert [len(panel.lines) for panel in drawn.axes] == [3, 3, 3, 3]


def test_a_learned_training_that_diverges_ends_as_any_other(tmp_path):
    def learned(params, lr):
        return LearnedOptimizer(params, update_rule=OptimizerNetwork(0.01, 0.5), lr=lr, max_update=math.inf)

    trace = trainer(tmp_path, steps=400).train(Candidate("x", learned, 1e8), 1e8, 0)
    assert trace.diverged
    assert trace.steps[-1] < 400
    assert not math.isfinite(trace.train_loss[-1])


def test_a_learning_rate_that_was_not_tried_differs_from_one_that_diverged():
    """Three settings around 0.1, of which the greatest diverges, and the best at the lower edge with nothing below."""
    row = compared(Scripted(best=0.03, diverges_above=0.2), Candidate("x", SGD, 0.1), trials=3, most_trials=3)
    protocol = Protocol("accuracy", True, 1, 2, 3, 3, 1.0)
    assert row.lr == pytest.approx(0.1 / math.sqrt(10))
    found = summary(row, protocol)
    assert found["val_off_low"] is None
    assert found["val_off_high"] == row.trials[0.1]
    cells = [list(column.cells) for column in table([row], protocol, "t").columns]
    assert cells[6] == ["not tried"]
    row.lr = 0.1
    cells = [list(column.cells) for column in table([row], protocol, "t").columns]
    assert cells[7] == ["diverged"]


def test_results_are_strict_json():
    row = compared(Scripted(best=0.1, diverges_above=0.2), Candidate("x", SGD, 0.1), seeds=(0,))
    protocol = Protocol("accuracy", True, 1, 1, 3, 6, 1.0)

    def raise_problems(constant):
        raise AssertionError(constant)

    found = json.loads(as_bytes(as_json([row], protocol)), parse_constant=raise_problems)
    assert found["rows"][0]["trials"]["0.316228"] is None  # diverged
    assert found["rows"][0]["test/accuracy_sd"] is None  # of one seed there is none
    assert found["rows"][0]["traces"][0]["train_loss"] == [None, 1.0]
    assert found["rows"][0]["learning_rate"] == row.lr
    assert json.loads(as_bytes({"a": (1, -math.inf, "b", True)})) == {"a": [1, None, "b", True]}


def test_the_terms_count_in_words():
    one, many = (Protocol("mse", False, n, n, n, 3, 0.5).in_words() for n in (1, 3))
    assert one.startswith("1 step, mean ± standard deviation over 1 seed. Each")
    assert "one more seed: 1 setting a factor" in one
    assert many.startswith("3 steps, mean ± standard deviation over 3 seeds. Each")
    assert "one more seed: 3 settings a factor" in many


def test_what_was_trained_is_not_trained_again(tmp_path):
    scripted, candidate = Scripted(best=0.1, diverges_above=0.05), Candidate("x", SGD, 0.1)
    cache = RunCache(UPath(tmp_path), {"config": "a"}, scripted.train)
    asked = ((0.1, 0), (0.01, 0), (0.1, 1), (0.1, 0))
    first = [cache(candidate, lr, seed) for lr, seed in asked]
    assert len(scripted.asked) == 3
    again = RunCache(UPath(tmp_path), {"config": "a"}, scripted.train)
    assert again.read()
    # NaN, which a trace begins with, equals nothing
    assert repr([again(candidate, lr, seed) for lr, seed in ((0.1, 0), (0.01, 0), (0.1, 1), (0.1, 0))]) == repr(first)
    assert len(scripted.asked) == 3
    again(candidate, 0.1, 2)
    assert len(scripted.asked) == 4
    assert not RunCache(UPath(tmp_path), {"config": "b"}, scripted.train).read()
    (tmp_path / "trainings.json").write_text("{")
    with pytest.raises(UserError, match=r"trainings.json is damaged"):
        again.read()
    again.forget()
    assert not again.read()
