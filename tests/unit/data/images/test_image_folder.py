"""Every layout of one's own pictures gives the same classes; damage is named; augmentation repeats itself."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.transforms import v2

from metasgd.data.images.image_folder import ImageFolder, split_by_name
from metasgd.data.images.layouts import find_classes
from metasgd.data.rng import SPLITS
from metasgd.data.task_shape import TaskShape
from metasgd.errors import UserError

SHAPE = TaskShape(n_way=2, k_shot=1, n_query=2)
CLASSES = {"train": ("ant", "bee", "cat"), "val": ("dog", "eel"), "test": ("fox", "gnu")}

GOLDEN_VAL = ("c03", "c05", "c16", "c19")
"""Of c00 … c19, a fifth after the first half: a split must never change."""
FLIP_AND_TURN = (v2.RandomHorizontalFlip(), v2.RandomRotation(30))


def picture(name: str, d: int) -> np.ndarray:
    stream = np.random.default_rng([*name.encode(), d])
    return stream.integers(256, size=(12, 12, 3), dtype=np.uint8)


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def tree(tmp_path):
    for split, names in CLASSES.items():
        for name in names:
            for d in range(4):
                write(tmp_path / "tree" / split / name / f"{d}.png", picture(name, d))
    return tmp_path / "tree"


@pytest.fixture
def tables(tmp_path):
    for split, names in CLASSES.items():
        rows = [(f"{name}{d}.png", name) for name in names for d in range(4)]
        for file, name in rows:
            write(tmp_path / "tables" / "images" / file, picture(name, int(file[-5])))
        with (tmp_path / "tables" / f"{split}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("filename", "label"), *rows])
    return tmp_path / "tables"


@pytest.mark.parametrize("layout", ["tree", "tables"])
def test_both_layouts_give_the_pictures_of_each_split(layout, request, tmp_path):
    root = request.getfixturevalue(layout)
    source = ImageFolder(image_size=12)
    source.prepare(root, tmp_path / "cache")
    for split in SPLITS:
        pool = source.pool(split, root, tmp_path / "cache")
        assert pool.names == CLASSES[split]
        for c, name in enumerate(pool.names):
            own = pool.images[pool.starts[c] : pool.starts[c] + pool.counts[c]]
            assert np.array_equal(own, [picture(name, d).transpose(2, 0, 1) for d in range(4)])
    assert len(list((tmp_path / "cache").iterdir())) == 1  # one cache for all the splits


def test_one_tree_is_split_by_the_names_of_its_classes(tmp_path):
    names = [f"c{i:02d}" for i in range(20)]
    for name in names:
        write(tmp_path / "one" / name / "0.png", picture(name, 0))
    source = ImageFolder(image_size=8, channels=1, fractions=(0.5, 0.2, 0.3))
    pools = {split: source.pool(split, tmp_path / "one", tmp_path / "cache") for split in SPLITS}
    assert [len(pools[split]) for split in SPLITS] == [10, 4, 6]
    assert sorted(n for pool in pools.values() for n in pool.names) == names
    assert pools["val"].image_shape == (1, 8, 8)
    assert pools["val"].names == GOLDEN_VAL
    assert split_by_name(names[::-1], (0.5, 0.2, 0.3))[::-1] == split_by_name(names, (0.5, 0.2, 0.3))


def test_nested_folders_are_groups(tmp_path):
    for name in ("greek/alpha", "greek/beta", "latin/a", "latin/b", "latin/c"):
        write(tmp_path / "one" / name / "0.png", picture(name, 0))
    pool = ImageFolder(fractions=(1, 0, 0)).pool("train", tmp_path / "one", tmp_path / "cache")
    assert pool.names == ("greek/alpha", "greek/beta", "latin/a", "latin/b", "latin/c")
    assert list(pool.groups) == [0, 0, 1, 1, 1]


def test_a_changed_picture_is_decoded_again(tree, tmp_path):
    source = ImageFolder(image_size=12)
    before = source.pool("test", tree, tmp_path / "cache").images[-1].copy()
    write(tree / "test" / "gnu" / "3.png", 255 - picture("gnu", 3))
    after = source.pool("test", tree, tmp_path / "cache").images[-1]
    assert np.array_equal(after, 255 - before)


def test_all_damaged_pictures_are_named_and_nothing_is_cached(tree, tmp_path):
    for bad in ("train/ant/1.png", "test/fox/0.png"):
        (tree / bad).write_bytes((tree / bad).read_bytes()[:50])
    with pytest.raises(UserError) as caught:
        ImageFolder().prepare(tree, tmp_path / "cache")
    assert [any(bad in p for p in caught.value.problems) for bad in ("ant/1.png", "fox/0.png")] == [True, True]
    assert len(caught.value.problems) == 2
    assert list((tmp_path / "cache").iterdir()) == []


def test_layouts_that_lack_something(tree, tables, tmp_path):
    with pytest.raises(UserError, match="is no folder"):
        find_classes(tmp_path / "nowhere")
    for folder in ("val",):
        (tree / folder).rename(tmp_path / folder)
    with pytest.raises(UserError, match="val/ is missing"):
        find_classes(tree)
    (tables / "test.csv").unlink()
    with pytest.raises(UserError, match="test.csv is missing"):
        find_classes(tables)


def test_a_class_in_two_splits_is_refused(tree):
    write(tree / "test" / "ant" / "0.png", picture("ant", 0))
    with pytest.raises(UserError, match="more than one of train, val and test, such as ant"):
        find_classes(tree)


def test_a_split_without_classes_is_refused(tmp_path):
    for name in "ab":
        write(tmp_path / "one" / name / "0.png", picture(name, 0))
    with pytest.raises(UserError, match="none falls to the val split.*fractions"):
        ImageFolder(fractions=(0.5, 0, 0.5)).pool("val", tmp_path / "one", tmp_path / "cache")


@pytest.mark.parametrize(("split", "size"), [("train", 13), ("val", 3), ("test", 4)])
def test_what_fractions_leave_each_split_is_named_where_it_is_too_little(tmp_path, split, size):
    for i in range(20):
        write(tmp_path / "one" / f"c{i}" / "0.png", picture("c", i))
        write(tmp_path / "one" / f"c{i}" / "1.png", picture("c", i))
    source = ImageFolder(image_size=8)

    def sampler(n_way):
        return source.sampler(split, tmp_path / "one", tmp_path / "cache", 0, TaskShape(n_way, 1, 1))

    assert len(sampler(size).pool) == size
    with pytest.raises(UserError) as caught:
        sampler(size + 1)
    assert caught.value.problems == (
        f"n_way is {size + 1}, but of the 20 classes in {tmp_path / 'one'} fractions"
        f" [0.64, 0.16, 0.2] leave the {split} split {size} (train 13, val 3, test 4): add classes, lower n_way,"
        " or sort them into train/, val/ and test/ yourself",
    )


def test_where_folders_say_the_split_fractions_are_not_mentioned(tree, tmp_path):
    with pytest.raises(UserError, match="n_way is 5, but the val split has 2 classes") as caught:
        ImageFolder(image_size=8).sampler("val", tree, tmp_path / "cache", 0, TaskShape(5, 1, 1))
    assert "fractions" not in str(caught.value)


def test_inverted_pictures_are_another_pool_of_the_other_ink(tree, tmp_path):
    plain, inverted = (ImageFolder(image_size=12, ink="dark", invert=i) for i in (False, True))
    assert (plain.ink, inverted.ink) == ("dark", "light")
    assert ImageFolder(ink="light", invert=True).ink == "dark"
    pools = [source.pool("val", tree, tmp_path / "cache") for source in (plain, inverted, plain, inverted)]
    for pool, same in zip(pools, (True, False, True, False), strict=True):  # the second time out of the cache
        expected = np.stack([picture(name, d).transpose(2, 0, 1) for name in CLASSES["val"] for d in range(4)])
        own = pool.images[pool.starts[0] : pool.starts[0] + 8]
        assert np.array_equal(own, expected if same else 255 - expected)
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_inverting_needs_to_know_the_ink():
    with pytest.raises(UserError, match="invert is true: say with ink"):
        ImageFolder(invert=True)


def test_linked_classes_are_found_and_a_link_to_nothing_is_named(tree, tmp_path):
    (tree / "test" / "gnu").rename(tmp_path / "gnu")
    (tree / "test" / "gnu").symlink_to(tmp_path / "gnu")
    assert ImageFolder(image_size=12).pool("test", tree, tmp_path / "cache").names == CLASSES["test"]
    (tree / "train" / "ant" / "9.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(UserError, match="train/ant/9.png: a link to what is not there"):
        ImageFolder(image_size=12).prepare(tree, tmp_path / "cache")


def test_all_wrong_options_are_named_at_once():
    with pytest.raises(UserError) as caught:
        ImageFolder(image_size=0, channels=2, fractions=(0.5, 0.5, 0.5))
    assert [p.split(" is ")[0].rpartition(".")[2] for p in caught.value.problems] == [
        "image_size",
        "channels",
        "fractions",
    ]


# --- augmentation


def sampler(tree, cache, split="train", seed=0, transforms=FLIP_AND_TURN):
    return ImageFolder(image_size=12, augmentation=transforms).sampler(split, tree, cache, seed, SHAPE)


def test_augmented_tasks_are_a_function_of_seed_split_and_number(tree, tmp_path):
    alone = [sampler(tree, tmp_path).draw(np.array([i])) for i in (3, 1)]
    torch.rand(5)
    together = sampler(tree, tmp_path).draw(np.array([0, 1, 2, 3]))
    for one, b in zip(alone, (3, 1), strict=True):
        assert torch.equal(one.support_x[0], together.support_x[b])
        assert torch.equal(one.query_x[0], together.query_x[b])
    other = sampler(tree, tmp_path, seed=1).draw(np.array([0, 1, 2, 3]))
    assert not torch.equal(other.query_x, together.query_x)


def test_augmentation_leaves_the_global_generator_alone(tree, tmp_path):
    drawn = sampler(tree, tmp_path)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    drawn.draw(np.arange(4))
    assert torch.equal(torch.rand(3), expected)


def test_each_picture_is_changed_on_its_own_and_only_in_training(tree, tmp_path):
    flip = (v2.RandomHorizontalFlip(),)
    plain = sampler(tree, tmp_path, transforms=()).draw(np.arange(8))
    changed = sampler(tree, tmp_path, transforms=flip).draw(np.arange(8))
    same = (changed.query_x == plain.query_x).flatten(2).all(dim=2)
    flipped = (changed.query_x == plain.query_x.flip(-1)).flatten(2).all(dim=2)
    assert (same ^ flipped).all()
    assert 0.2 < same.float().mean() < 0.8  # of 32 pictures; far from a fair coin's extremes
    assert torch.equal(
        sampler(tree, tmp_path, "val", transforms=flip).draw(np.arange(2)).query_x,
        sampler(tree, tmp_path, "val", transforms=()).draw(np.arange(2)).query_x,
    )


@pytest.mark.parametrize("transform", [v2.Resize(5), v2.ToDtype(torch.float32), nn.Flatten(0)])
def test_a_transform_that_changes_the_shape_is_refused(tree, tmp_path, transform):
    with pytest.raises(UserError, match="use transforms that change neither"):
        sampler(tree, tmp_path, transforms=(transform,)).draw(np.arange(1))
