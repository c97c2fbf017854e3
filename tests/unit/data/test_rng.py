import itertools

import numpy as np
import pytest

from metasgd.data.rng import SPLITS, task_stream


def test_a_task_is_a_function_of_seed_split_and_index():
    assert task_stream(3, "val", 7).random(4).tolist() == task_stream(3, "val", 7).random(4).tolist()


def test_a_golden_task_never_changes():
    """Checkpoints and results name tasks by number: another stream would be another data set."""
    assert task_stream(0, "train", 0).integers(0, 2**32, 3).tolist() == GOLDEN[0]
    assert task_stream(1, "test", 12345).integers(0, 2**32, 3).tolist() == GOLDEN[1]


GOLDEN = ([149215387, 49592932, 2628306354], [2260894328, 628110179, 644440130])


def test_streams_do_not_overlap():
    numbers = [
        task_stream(seed, split, index).integers(0, 2**63, 50)
        for seed, split, index in itertools.product((0, 1, 2**63), SPLITS, (0, 1, 2, 10**9))
    ]
    assert len(np.unique(np.concatenate(numbers))) == 50 * len(numbers)


@pytest.mark.parametrize("split", SPLITS)
def test_first_numbers_over_tasks_are_uniform(split):
    firsts = np.array([task_stream(0, split, i).random() for i in range(4000)])
    counts = np.histogram(firsts, bins=10, range=(0, 1))[0]
    assert ((counts - 400) ** 2 / 400).sum() < 33.7  # chi-square, 9 degrees of freedom, p = 1e-4
