"""What changed between two lives of a run is said, and classes that moved into the test are found."""

import hashlib

import pytest
from PIL import Image

from metasgd.data.contents import as_contents, changes, seen_in_training
from metasgd.data.glyphs.source import Glyphs
from metasgd.data.images.image_folder import ImageFolder

SAVED = {
    "train": {"ant": (20, "a1"), "bee": (20, "b1"), "cow": (20, "c1")},
    "val": {"dog": (20, "d1")},
    "test": {"eel": (20, "e1")},
}


def changed(**splits):
    return {split: {**classes, **splits.get(split, {})} for split, classes in SAVED.items()}


def without(contents, split, name):
    return {**contents, split: {n: about for n, about in contents[split].items() if n != name}}


@pytest.mark.parametrize(
    ("own", "said"),
    [
        (SAVED, []),
        (changed(test={"fox": (1, "f1"), "eel": (9, "e2")}), []),  # the run never looks at it
        (changed(train={"fox": (7, "f1")}), ["1 class of train new, such as fox"]),
        (changed(train={"ant": (25, "a2")}), ["1 class of train with other pictures, such as ant (25, 20 then)"]),
        (changed(val={"dog": (20, "d2")}), ["1 class of val with other pictures, such as dog (20 others)"]),
        (without(SAVED, "train", "bee"), ["1 class of train gone, such as bee"]),
        (
            without(changed(test={"bee": (20, "b1")}), "train", "bee"),
            ["1 class of train gone, such as bee (now in test)"],
        ),
        (
            without(changed(val={"ant": (20, "a1"), "cow": (20, "c1")}), "train", "ant"),
            ["1 class of train gone, such as ant (now in val)", "2 classes of val new, such as ant"],
        ),
        ({}, ["3 classes of train gone, such as ant", "1 class of val gone, such as dog"]),
    ],
)
def test_every_change_of_what_is_trained_on_is_said(own, said):
    assert changes(SAVED, own) == said


def test_classes_that_moved_into_the_test_are_found():
    moved = without(changed(test={"bee": (20, "b1"), "dog": (3, "d9")}), "train", "bee")
    assert seen_in_training(SAVED, moved, "test") == (["bee", "dog"], True)
    assert seen_in_training(SAVED, changed(val={"ant": (20, "a1")}), "val") == (["ant"], True)
    assert seen_in_training(SAVED, SAVED, "test") == ([], True)
    of_other_data = {"train": {}, "val": {}, "test": {"ant": (9, "x9"), "yak": (9, "y9")}}
    assert seen_in_training(SAVED, of_other_data, "test") == (["ant"], False)


@pytest.mark.parametrize(
    "damaged",
    [3, {"trian": {}}, {"train": []}, {"train": {"a": 3}}, {"train": {"a": (1, 2)}}, {"train": {1: (1, "a")}}],
)
def test_what_is_no_contents_is_refused(damaged):
    assert as_contents(SAVED) == SAVED
    with pytest.raises(ValueError, match="is no"):
        as_contents(damaged)


def picture(path, side):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (side, 5)).save(path)


def test_a_folder_has_the_same_contents_wherever_it_lies_and_other_ones_when_a_picture_is(tmp_path):
    source = ImageFolder(image_size=8, fractions=(0.5, 0.25, 0.25))
    for place in ("one", "two"):
        for c in range(8):
            for d in range(3):
                picture(tmp_path / place / f"c{c}" / f"{d}.bmp", 8)
    one, two = (source.contents(tmp_path / place, tmp_path) for place in ("one", "two"))
    assert one == two
    assert [len(one[split]) for split in ("train", "val", "test")] == [4, 2, 2]
    assert {count for classes in one.values() for count, _ in classes.values()} == {3}
    first = next(iter(one["train"]))
    picture(tmp_path / "two" / first / "1.bmp", 100)  # of the same name
    picture(tmp_path / "two" / list(one["val"])[1] / "3.bmp", 8)
    assert changes(one, source.contents(tmp_path / "two", tmp_path)) == [
        f"1 class of train with other pictures, such as {first} (3 others)",
        f"1 class of val with other pictures, such as {list(one['val'])[1]} (4, 3 then)",
    ]


def test_classes_that_are_added_move_others_where_fractions_decide(tmp_path):
    source = ImageFolder(image_size=8, fractions=(0.5, 0.25, 0.25))
    names = [f"c{c}" for c in range(20)]
    order = sorted(names, key=lambda name: hashlib.sha256(f"metasgd/image_folder/1:{name}".encode()).digest())
    for name in order[12:]:
        picture(tmp_path / name / "0.bmp", 8)
    before = source.contents(tmp_path, tmp_path)
    assert set(before["train"]) == set(order[12:16])
    for name in order[:12]:
        picture(tmp_path / name / "0.bmp", 8)
    after = source.contents(tmp_path, tmp_path)
    assert set(after["test"]) == set(order[15:])
    assert set(seen_in_training(before, after, "test")[0]) == {order[15], *order[16:18]}  # of train, of val
    assert changes(before, after)


def test_the_glyphs_contents_change_with_the_fonts(tmp_path, found, monkeypatch):
    monkeypatch.setattr("metasgd.data.glyphs.source.letters", lambda: [x for x in found if x.script == "HEBREW"][:3])
    source = Glyphs(drawings_per_class=2, image_size=12)
    own = source.contents(tmp_path, tmp_path)
    assert own["val"]["HEBREW"][0] == 6
    monkeypatch.setattr("metasgd.data.glyphs.source.fonts_digest", lambda: "another release")
    assert any("HEBREW (6 others)" in said for said in changes(own, source.contents(tmp_path, tmp_path)))
