import os
from pathlib import Path

import numpy as np
import pytest
import torch
from support.fake_omniglot import BACKGROUND, EVALUATION, Fake, write_archives, write_trees

from metasgd.data.class_pool import ClassPool
from metasgd.data.omniglot import files as omniglot_files
from metasgd.data.omniglot import source as omniglot
from metasgd.data.omniglot.release import OFFICIAL
from metasgd.data.omniglot.source import Omniglot, official_split, random_split
from metasgd.data.rng import SPLITS, Split
from metasgd.data.task_shape import TaskShape
from metasgd.episode import Episode
from metasgd.errors import UserError

REAL = Path(__file__).parents[4].parent / "shared/data/omniglot"
FIRST_TESTED = (
    "Alphabet_of_the_Magi/character02",
    "Alphabet_of_the_Magi/character03",
    "Alphabet_of_the_Magi/character16",
    "Alphabet_of_the_Magi/character17",
    "Alphabet_of_the_Magi/character18",
)


def assert_same(a: ClassPool, b: ClassPool) -> None:
    for field in ("images", "starts", "counts", "groups"):
        np.testing.assert_array_equal(getattr(a, field), getattr(b, field))
    assert a.names == b.names


def class_images(pool: ClassPool, name: str) -> np.ndarray:
    c = pool.names.index(name)
    return pool.images[pool.starts[c] : pool.starts[c] + pool.counts[c], 0]


def pools(source: Omniglot, root: Path, cache_dir: Path) -> dict[Split, ClassPool]:
    return {split: source.pool(split, root, cache_dir) for split in SPLITS}


# --- options


def test_all_wrong_options_are_named_at_once() -> None:
    with pytest.raises(UserError) as caught:
        Omniglot(split="offical", image_size=106, distortion=-0.5, thickness=2, redrawn=21)  # type: ignore[arg-type]
    first, second, third, fourth, fifth = caught.value.problems
    assert "split is 'offical': use 'random' or 'official'" in first
    assert "image_size is 106: use 1 to 105 pixels" in second
    assert "distortion is -0.5: use 0 to 3" in third
    assert "thickness is 2: use 0 to 1" in fourth
    assert "redrawn is 21: use 0 to 20" in fifth
    with pytest.raises(UserError, match="image_size is 0"):
        Omniglot(image_size=0)


# --- splits


def official_names() -> list[str]:
    return sorted(
        f"{alphabet}/character{number:02d}"
        for part in OFFICIAL.parts.values()
        for alphabet, characters in part.items()
        for number in range(1, characters + 1)
    )


def test_the_random_split_is_the_same_one_for_ever() -> None:
    names = official_names()
    split = random_split(names, OFFICIAL.random_sizes)
    assert [len(split[s]) for s in SPLITS] == [1100, 100, 423]
    assert sorted(np.concatenate([split[s] for s in SPLITS])) == list(range(1623))
    assert tuple(names[c] for c in split["test"][:5]) == FIRST_TESTED
    assert [names[c] for c in split["val"][:2]] == ["Angelic/character10", "Anglo-Saxon_Futhorc/character15"]


def test_the_random_split_does_not_depend_on_the_order_of_the_names() -> None:
    names = official_names()
    backwards = names[::-1]
    one, other = random_split(names, OFFICIAL.random_sizes), random_split(backwards, OFFICIAL.random_sizes)
    for s in SPLITS:
        assert {names[c] for c in one[s]} == {backwards[c] for c in other[s]}


def test_the_official_split_is_by_alphabets() -> None:
    names = official_names()
    split = official_split(names, OFFICIAL)
    assert [len(split[s]) for s in SPLITS] == [883, 81, 659]
    alphabets = {s: {names[c].split("/")[0] for c in split[s]} for s in SPLITS}
    assert alphabets["test"] == set(OFFICIAL.parts[EVALUATION])
    assert len(alphabets["val"]) == 5
    assert alphabets["train"] | alphabets["val"] == set(OFFICIAL.parts[BACKGROUND])
    assert not alphabets["train"] & alphabets["val"]


@pytest.mark.parametrize(("split", "sizes"), [("random", [8, 2, 4]), ("official", [7, 2, 5])])
@pytest.mark.parametrize("rotations", [True, False])
def test_no_character_is_in_two_splits(tmp_path: Path, split, sizes: list[int], rotations: bool) -> None:
    source = Fake(split, rotations=rotations)
    got = pools(source, write_archives(tmp_path / "data"), tmp_path / "cache")
    assert [len(pool) for pool in got.values()] == [sizes[0] * (4 if rotations else 1), *sizes[1:]]
    characters = [{name.split("@")[0] for name in pool.names} for pool in got.values()]
    assert [len(names) for names in characters] == sizes
    assert len(set.union(*characters)) == 14


def test_groups_are_alphabets(tmp_path: Path) -> None:
    for pool in pools(Fake(rotations=False), write_archives(tmp_path / "data"), tmp_path / "cache").values():
        alphabets = [name.split("/")[0] for name in pool.names]
        same_alphabet = [[a == b for b in alphabets] for a in alphabets]
        np.testing.assert_array_equal(pool.groups[:, None] == pool.groups, same_alphabet)


# --- images


def test_a_rotated_class_is_the_original_rotated_and_only_in_training(tmp_path: Path) -> None:
    root, cache_dir = write_archives(tmp_path / "data"), tmp_path / "cache"
    plain, rotated = pools(Fake(rotations=False), root, cache_dir), pools(Fake(), root, cache_dir)
    assert_same(plain["val"], rotated["val"])
    assert_same(plain["test"], rotated["test"])
    for name in plain["train"].names:
        original = class_images(plain["train"], name)
        for quarter in range(4):
            found = class_images(rotated["train"], f"{name}@{90 * quarter}")
            np.testing.assert_array_equal(found, [np.rot90(image, quarter) for image in original])


def test_only_the_tasks_that_evaluate_are_rotated_where_that_is_asked_for(tmp_path: Path) -> None:
    root, cache_dir, shape = write_archives(tmp_path / "data"), tmp_path / "cache", TaskShape(2, 1, 1)
    tasks: dict[bool, dict[Split, Episode]] = {
        rotated: {
            split: Fake(rotations=False, eval_rotations=rotated)
            .sampler(split, root, cache_dir, 0, shape)
            .draw(np.arange(20))
            for split in SPLITS
        }
        for rotated in (False, True)
    }
    assert torch.equal(tasks[False]["train"].support_x, tasks[True]["train"].support_x)
    for split in ("val", "test"):
        plain, rotated = tasks[False][split], tasks[True][split]
        assert torch.equal(plain.classes, rotated.classes)
        assert not torch.equal(plain.support_x, rotated.support_x)
        assert torch.equal(plain.support_x.sum((-1, -2)), rotated.support_x.sum((-1, -2)))


def test_with_mirrors_training_has_all_eight_symmetries_of_a_character(tmp_path: Path) -> None:
    root, cache_dir = write_archives(tmp_path / "data"), tmp_path / "cache"
    plain, mirrored = pools(Fake(rotations=False), root, cache_dir), pools(Fake(mirrors=True), root, cache_dir)
    assert_same(plain["val"], mirrored["val"])
    assert_same(plain["test"], mirrored["test"])
    assert len(mirrored["train"]) == 8 * len(plain["train"])
    name = plain["train"].names[0]
    original = class_images(plain["train"], name)[0]
    expected = [np.rot90(image, quarter).tolist() for image in (original, np.fliplr(original)) for quarter in range(4)]
    got = [
        class_images(mirrored["train"], f"{name}{side}@{90 * quarter}")[0].tolist()
        for side in ("", "@mirrored")
        for quarter in range(4)
    ]
    assert got == expected


def test_only_the_training_alphabets_are_recomposed(tmp_path: Path) -> None:
    root, cache_dir = write_archives(tmp_path / "data"), tmp_path / "cache"
    plain, more = pools(Fake(rotations=False), root, cache_dir), pools(Fake(recomposed=True), root, cache_dir)
    assert_same(plain["val"], more["val"])
    assert_same(plain["test"], more["test"])
    alphabets = np.bincount(plain["train"].groups)
    assert len(more["train"]) == 8 * len(plain["train"]) - 4 * (alphabets == 1).sum()
    name = plain["train"].names[int(np.argmax(alphabets[plain["train"].groups] > 1))]
    made, own = class_images(more["train"], f"{name}@recomposed@0"), class_images(plain["train"], name)
    half = own.shape[-1] // 2
    assert np.array_equal(made[..., :half], own[..., :half])
    assert not np.array_equal(made, own)


def test_only_training_drawings_are_drawn_again_beside_their_own(tmp_path: Path) -> None:
    root, cache_dir = write_archives(tmp_path / "data"), tmp_path / "cache"
    plain, more = (
        pools(Fake(rotations=False), root, cache_dir),
        pools(Fake(rotations=False, redrawn=2), root, cache_dir),
    )
    assert_same(plain["val"], more["val"])
    assert_same(plain["test"], more["test"])
    assert more["train"].names == plain["train"].names
    for name in plain["train"].names:
        own, drawn = class_images(plain["train"], name), class_images(more["train"], name)
        assert len(drawn) == 3 * len(own)
        assert np.array_equal(drawn[: len(own)], own)
        again = drawn[len(own) :].reshape(2, *own.shape).astype(float)
        assert len({drawing.tobytes() for drawing in drawn}) == len(drawn)
        for d, drawing in enumerate(own):  # each is nearer to what it was drawn after than to another
            apart = np.abs(again[:, d] - drawing).mean(axis=(1, 2))
            others = [np.abs(again[:, d] - other).mean(axis=(1, 2)) for o, other in enumerate(own) if o != d]
            assert (apart < np.min(others, axis=0)).all()


def test_what_is_drawn_again_depends_on_the_character_alone(tmp_path: Path) -> None:
    root = write_archives(tmp_path / "data")
    by_random = Fake(rotations=False, redrawn=1).pool("train", root, tmp_path / "one")
    by_alphabet = Fake("official", rotations=False, redrawn=1).pool("train", root, tmp_path / "two")
    both = set(by_random.names) & set(by_alphabet.names)
    assert both
    for name in both:
        assert np.array_equal(class_images(by_random, name), class_images(by_alphabet, name))


def test_only_training_drawings_are_distorted(tmp_path: Path) -> None:
    root, cache_dir, shape = write_archives(tmp_path / "data"), tmp_path / "cache", TaskShape(2, 1, 1)
    tasks: dict[float, dict[Split, Episode]] = {
        strength: {
            split: Fake(distortion=strength).sampler(split, root, cache_dir, 0, shape).draw(np.arange(3))
            for split in SPLITS
        }
        for strength in (0.0, 1.0)
    }
    for split in SPLITS:
        same = torch.equal(tasks[0.0][split].support_x, tasks[1.0][split].support_x)
        assert same == (split != "train")


def test_ink_is_255_on_0_at_the_size_asked_for(tmp_path: Path) -> None:
    root = write_archives(tmp_path / "data")
    for image_size in (14, 28):
        pool = Fake(image_size=image_size).pool("train", root, tmp_path / "cache")
        assert pool.image_shape == (1, image_size, image_size)
        assert pool.images.dtype == np.uint8
        assert pool.images[:, 0, 0, 0].max() <= 3  # no stroke is near a corner
        assert pool.images.max() > 200


@pytest.mark.parametrize("split", ["random", "official"])
def test_archives_and_trees_give_the_same_bits(tmp_path: Path, split) -> None:
    from_archives = pools(Fake(split), write_archives(tmp_path / "archives"), tmp_path / "cache 1")
    from_trees = pools(Fake(split), write_trees(tmp_path / "trees"), tmp_path / "cache 2")
    for s in SPLITS:
        assert_same(from_archives[s], from_trees[s])


# --- the cache


def test_one_decoding_serves_every_split_until_a_file_changes(tmp_path: Path, monkeypatch) -> None:
    root, cache_dir = write_trees(tmp_path / "data"), tmp_path / "cache"
    Fake().prepare(root, cache_dir)
    with monkeypatch.context() as patched:
        patched.setattr(omniglot, "read_characters", None)  # cannot be called
        pools(Fake("official", rotations=False), root, cache_dir)
    before = Fake("official").pool("test", root, cache_dir)
    one, other = (root / EVALUATION / f"He/character0{n}/0{n}_01.png" for n in (1, 2))
    one.write_bytes(other.read_bytes())
    after = Fake("official").pool("test", root, cache_dir)
    np.testing.assert_array_equal(class_images(after, "He/character01")[0], class_images(before, "He/character02")[0])
    assert (class_images(before, "He/character01")[0] != class_images(before, "He/character02")[0]).any()


def test_what_an_interrupted_decoding_left_is_not_taken_for_complete(tmp_path: Path, monkeypatch) -> None:
    root, cache_dir = write_archives(tmp_path / "data"), tmp_path / "cache"
    decode, calls = omniglot_files.decode_drawing, iter(range(5))

    def interrupted(data: bytes, where: str, image_size: int):
        if next(calls) == 4:
            raise KeyboardInterrupt
        return decode(data, where, image_size)

    with monkeypatch.context() as patched:
        patched.setattr(omniglot_files, "decode_drawing", interrupted)
        with pytest.raises(KeyboardInterrupt):
            Fake().prepare(root, cache_dir)
    assert os.listdir(cache_dir) == []
    assert_same(Fake().pool("test", root, cache_dir), Fake().pool("test", root, tmp_path / "other cache"))


@pytest.mark.parametrize("file", ["images.npy", "classes.json"])
def test_a_damaged_cache_is_named(tmp_path: Path, file: str) -> None:
    root, cache_dir = write_archives(tmp_path / "data"), tmp_path / "cache"
    Fake().prepare(root, cache_dir)
    [damaged] = cache_dir.glob(f"*/{file}")
    os.truncate(damaged, damaged.stat().st_size - 1)
    with pytest.raises(UserError) as caught:
        Fake().pool("train", root, cache_dir)
    [problem] = caught.value.problems
    assert str(damaged) in problem
    assert f"Delete the folder {damaged.parent}" in problem


# --- the real release


@pytest.fixture(scope="module")
def real_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not REAL.is_dir():
        pytest.skip(f"Omniglot's archives are not in {REAL}")
    cache_dir = tmp_path_factory.mktemp("cache")
    Omniglot().prepare(REAL, cache_dir)
    return cache_dir


def test_the_real_release_is_complete(real_cache: Path) -> None:
    got = pools(Omniglot(rotations=False), REAL, real_cache)
    assert [len(pool) for pool in got.values()] == [1100, 100, 423]
    assert sorted(name for pool in got.values() for name in pool.names) == official_names()
    assert got["test"].names[:5] == FIRST_TESTED
    for pool in got.values():
        assert (pool.counts == 20).all()
    images = got["test"].images  # one array for all splits
    assert images.shape == (32_460, 1, 28, 28)
    assert (images.max(axis=(1, 2, 3)) > 100).all()  # each has ink
    assert images.mean() < 40  # and is mostly empty


def test_the_real_release_splits_by_alphabets_and_rotates(real_cache: Path) -> None:
    got = pools(Omniglot("official"), REAL, real_cache)
    assert [len(pool) for pool in got.values()] == [4 * 883, 81, 659]
    assert [len(set(pool.groups)) for pool in got.values()] == [4 * 25, 5, 20]
    assert got["test"].names[:2] == ("Angelic/character01", "Angelic/character02")
