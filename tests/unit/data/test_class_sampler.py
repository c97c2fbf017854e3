import numpy as np
import pytest
import torch

from metasgd.data.class_pool import ClassPool
from metasgd.data.class_sampler import ClassSampler
from metasgd.data.task_shape import TaskShape
from metasgd.errors import UserError


@pytest.fixture
def pool():
    """12 classes in alphabets of 7 and 5, with 4 to 6 images; an image's pixels say whose it is and which."""
    counts = np.array([4, 5, 6] * 4)
    starts = np.cumsum(counts) - counts
    images = np.zeros((counts.sum(), 1, 1, 2), dtype=np.uint8)
    for c in range(12):
        images[starts[c] : starts[c] + counts[c], 0, 0, 0] = c
        images[starts[c] : starts[c] + counts[c], 0, 0, 1] = np.arange(counts[c])
    names = tuple(f"{'AB'[c >= 7]}/{c}" for c in range(12))
    return ClassPool(images, starts, counts, names, np.array([0] * 7 + [1] * 5))


def draw(pool, shape, n=40, seed=0, split="train"):
    return ClassSampler(pool, split, seed, shape).draw(np.arange(n))


def test_shapes_and_types(pool):
    e = draw(pool, TaskShape(5, 1, 3), n=6)
    assert e.support_x.shape == (6, 5, 1, 1, 2)
    assert e.query_x.shape == (6, 15, 1, 1, 2)
    assert e.support_x.dtype == torch.uint8
    assert e.support_y.tolist() == [[0, 1, 2, 3, 4]] * 6
    assert e.query_y[0].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]
    assert e.task_index.tolist() == list(range(6))


def test_every_label_is_its_images_class(pool):
    e = draw(pool, TaskShape(4, 2, 2))
    for x, y in ((e.support_x, e.support_y), (e.query_x, e.query_y)):
        assert torch.equal(x[:, :, 0, 0, 0].long(), e.classes.gather(1, y))


def test_classes_and_images_of_a_task_are_never_doubled(pool):
    e = draw(pool, TaskShape(5, 2, 2), n=200)
    assert all(len(set(classes)) == 5 for classes in e.classes.tolist())
    for task in torch.cat([e.support_x, e.query_x], dim=1)[:, :, 0, 0].tolist():
        assert len({tuple(image) for image in task}) == 20


def test_every_class_and_every_image_is_drawn_alike(pool):
    e = draw(pool, TaskShape(3, 1, 3), n=4000)
    of_classes = np.bincount(e.classes.flatten(), minlength=12)
    assert abs(of_classes - 1000).max() < 130  # 4 standard deviations and more
    of_images = e.support_x[:, :, 0, 0, 1][e.support_x[:, :, 0, 0, 0] == 2]
    shares = np.bincount(of_images, minlength=6) / len(of_images)
    assert abs(shares - 1 / 6).max() < 0.06


def test_a_task_depends_on_seed_split_and_index_alone(pool):
    shape = TaskShape(4, 1, 2)
    sampler = ClassSampler(pool, "val", 3, shape)
    together = sampler.draw(np.array([5, 9, 5]))
    alone = sampler.draw(np.array([9]))
    assert torch.equal(together.query_x[1], alone.query_x[0])
    assert torch.equal(together.query_x[0], together.query_x[2])
    others = [draw(pool, shape, 40, seed, split).classes for seed, split in ((3, "val"), (4, "val"), (3, "test"))]
    assert not any(torch.equal(a, b) for a, b in ((others[0], others[1]), (others[0], others[2])))


def test_one_alphabet_alone(pool):
    e = draw(pool, TaskShape(5, 1, 1, one_alphabet=True), n=300)
    alphabet = (e.classes >= 7).long()
    assert (alphabet == alphabet[:, :1]).all()
    assert 0.3 < alphabet[:, 0].float().mean() < 0.53  # 5 of 12 classes
    larger = draw(pool, TaskShape(6, 1, 1, one_alphabet=True), n=50)
    assert (larger.classes < 7).all()  # the other has only 5


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        (TaskShape(1, 1, 1), "n_way is 1: at least 2 classes are needed to tell apart"),
        (TaskShape(13, 1, 1), "n_way is 13, but the train split has 12 classes"),
        (TaskShape(8, 1, 1, one_alphabet=True), "largest alphabet of the train split has 7 classes"),
        (TaskShape(5, 2, 3), "k_shot is 2 and n_query 3, 5 together, but 4 of the 12 classes.*the least has 4, A/0"),
    ],
)
def test_tasks_that_the_pool_cannot_fill_are_refused(pool, shape, said):
    with pytest.raises(UserError, match=said):
        ClassSampler(pool, "train", 0, shape)


def test_all_problems_are_named_together(pool):
    with pytest.raises(UserError) as raised:
        ClassSampler(pool, "train", 0, TaskShape(50, 10, 10))
    assert len(raised.value.problems) == 2


def test_too_many_queries_are_named_by_the_option_that_sets_them(pool):
    shape = TaskShape(5, 2, 3)
    with pytest.raises(UserError, match="k_shot is 2 and n_query 3, 5 together"):
        ClassSampler(pool, "train", 0, shape)
    for split in ("val", "test"):
        with pytest.raises(UserError, match=r"k_shot is 2 and eval_n_query \(by default n_query\) 3, 5 together"):
            ClassSampler(pool, split, 0, shape)
