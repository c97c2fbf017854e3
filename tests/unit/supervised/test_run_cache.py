"""Comparisons at the same time: what one has trained, the other takes, and nothing is lost."""

import json
import threading

from upath import UPath

from metasgd.supervised.run_cache import RunCache, cached_in
from metasgd.supervised.trainer import Candidate, Trace


class Counting:
    """Trains in no time, and counts how often each was trained."""

    def __init__(self):
        self.asked = []

    def __call__(self, candidate, lr, seed):
        self.asked.append((candidate.name, lr, seed))
        return Trace(
            steps=[0], seconds=[0.0], train_loss=[1.0], val_loss=[lr], val_metric=[0.5], test_metric=0.5, test_loss=lr
        )


def candidate(name):
    return Candidate(name, None, 1.0)


def test_the_same_command_takes_the_folder_of_the_one_at_work_and_another_its_own(tmp_path):
    train = Counting()
    first = cached_in(UPath(tmp_path), "[/red]", {"config": "a"}, train)
    assert cached_in(UPath(tmp_path), "[/red]", {"config": "b"}, train).folder != first.folder
    second = cached_in(UPath(tmp_path), "[/red]", {"config": "a"}, train)
    assert second.folder == first.folder
    first(candidate("$\\frac$"), 0.1, 0)
    second(candidate("$\\frac$"), 0.1, 0)
    assert len(train.asked) == 1  # the other's was taken
    first.forget()
    first.forget()
    assert cached_in(UPath(tmp_path), "[/red]", {"config": "a"}, train).folder != first.folder


def test_writers_at_once_lose_nothing(tmp_path):
    """Eight of them, all at the same trainings in different orders: in the end every one is there, by one of them."""
    wanted = [("x", lr / 10, seed) for lr in range(6) for seed in range(3)]
    caches = [RunCache(UPath(tmp_path), {"config": "a"}, Counting()) for _ in range(8)]
    start = threading.Barrier(len(caches))

    def work(cache, turn):
        start.wait()
        for name, lr, seed in wanted[turn:] + wanted[:turn]:
            cache(candidate(name), lr, seed)

    threads = [threading.Thread(target=work, args=(cache, 2 * turn)) for turn, cache in enumerate(caches)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done = json.loads((tmp_path / "trainings.json").read_text())["done"]
    assert sorted(tuple(key) for *key, _ in done) == sorted(wanted)
    assert all(trace["val_loss"] == [lr] for _, lr, _, trace in done)


def test_trainings_on_other_examples_are_not_used(tmp_path, caplog):
    began = {"config": "a", "examples": {"train": "1", "val": "2"}}
    first = cached_in(UPath(tmp_path), "x", began, Counting())
    first(candidate("Adam"), 0.1, 0)
    changed = cached_in(UPath(tmp_path), "x", {**began, "examples": {"train": "1", "val": "3"}}, Counting())
    assert changed.folder != first.folder
    assert not changed.traces
    assert "the examples have changed since" in caplog.text
    assert cached_in(UPath(tmp_path), "x", began, Counting()).folder == first.folder


def test_a_comparison_begun_before_examples_were_among_the_terms_resumes(tmp_path):
    first = cached_in(UPath(tmp_path), "x", {"config": "a"}, Counting())
    first(candidate("Adam"), 0.1, 0)
    second = cached_in(UPath(tmp_path), "x", {"config": "a", "examples": {"train": "1"}}, Counting())
    assert second.folder == first.folder
    assert second.traces == first.traces
