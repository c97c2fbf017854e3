"""Which folders and tables are splits, whoever named them, and which classes lie in them."""

import os
import re

import pytest

from metasgd.data.images import files as picture_files
from metasgd.data.images.files import classes_in
from metasgd.data.images.layouts import find_classes, labelled_pictures
from metasgd.data.images.tables import annotated_classes
from metasgd.errors import UserError

CLASSES = {"train": ("ant", "bee"), "val": ("cat",), "test": ("dog",)}


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def tree(root, called):
    """Two pictures of each class, in folders called so."""
    for split, name in called.items():
        touch(root, *(f"{name}/{c}/{d}.jpg" for c in CLASSES[split] for d in range(2)))


def splits_of(root):
    found = find_classes(root)
    return {s: tuple(c.name for c, of in zip(found.classes, found.split, strict=True) if of == s) for s in CLASSES}


@pytest.mark.parametrize("train", ["train", "Train", "TRAINING", "training"])
@pytest.mark.parametrize("val", ["val", "Valid", "VALIDATION", "eval"])
@pytest.mark.parametrize("test", ["test", "Test", "Testing"])
def test_splits_are_known_by_each_of_their_names(tmp_path, train, val, test):
    tree(tmp_path, {"train": train, "val": val, "test": test})
    touch(tmp_path, "docs/0.jpg", "train_log.txt", "Thumbs.db")  # beside them, and not called like a split of pictures
    assert splits_of(tmp_path) == CLASSES


@pytest.mark.parametrize(
    ("train", "val", "test"), [("Train.csv", "VALID.CSV", "testing.Csv"), ("training.csv", "eval.csv", "Test.csv")]
)
def test_tables_are_known_by_the_same_names(tmp_path, train, val, test):
    for split, name in {"train": train, "val": val, "test": test}.items():
        touch(tmp_path, *(f"images/{c}.jpg" for c in CLASSES[split]))
        (tmp_path / name).write_text("filename,label\n" + "".join(f"{c}.jpg,{c}\n" for c in CLASSES[split]))
    assert splits_of(tmp_path) == CLASSES
    (tmp_path / "train_set.csv").write_text("filename,label\n")
    with pytest.raises(UserError, match=r"train_set.csv is called like a split, .*train or training; val or valid or"):
        find_classes(tmp_path)


@pytest.mark.parametrize("kind", ["folders", "tables"])
def test_two_of_one_split_are_refused(tmp_path, kind):
    tree(tmp_path, {"train": "train", "val": "val", "test": "test"})
    touch(tmp_path, *(["Training/ant/1.jpg"] if kind == "folders" else ["Train.csv", "train.csv"]))
    with pytest.raises(UserError, match="(Training and train|Train.csv and train.csv) are both the train split"):
        find_classes(tmp_path)


@pytest.mark.parametrize(
    "alike", ["train_set", "test2", "trainval", "TestImages", "val-data", "Validation (1)", "meta_train", "evaluation"]
)
def test_what_is_called_like_a_split_is_refused_wherever_it_lies(tmp_path, alike):
    said = re.escape(alike)
    tree(tmp_path / "beside", {"train": "train", "val": "val", "test": "test"})
    touch(tmp_path / "beside", f"{alike}/ant/0.jpg")
    tree(tmp_path / "for", {"train": alike, "val": "v", "test": "t"})
    touch(tmp_path / "class", f"{alike}/0.jpg", "bee/0.jpg")
    for layout in ("beside", "for", "class"):
        with pytest.raises(UserError, match=f"{said} is called like a split, but splits are called train or training;"):
            find_classes(tmp_path / layout)


@pytest.mark.parametrize(
    "inside",
    [
        ("tiny/train/ant", "tiny/val/ant", "tiny/test/ant"),  # the folder above is meant
        ("ant/train", "ant/test", "bee/train", "bee/test"),  # a split within each class
        ("cub_train/ant", "cub_val/bee", "cub_test/cat"),
        ("ants/train_ants", "ants/test_ants"),
        ("train_set", "val_set"),
    ],
)
def test_splits_that_are_hidden_among_classes_are_refused(tmp_path, inside):
    touch(tmp_path, *(f"{name}/{d}.jpg" for name in inside for d in range(2)))
    for find in (find_classes, labelled_pictures):
        with pytest.raises(UserError, match="is called like a split"):
            find(tmp_path)


@pytest.mark.parametrize(
    "classes",
    [
        ("bullet_train", "valley", "trainer", "contest", "invalid"),
        ("train_interior", "train_station/platform", "train_station/outside"),  # as in Places365
        ("vehicles/train", "vehicles/truck", "animals/ant"),
    ],
)
def test_classes_whose_names_speak_of_one_split_at_most_are_classes(tmp_path, classes):
    touch(tmp_path, *(f"{name}/{d}.jpg" for name in classes for d in range(2)))
    assert sorted(c.name for c in find_classes(tmp_path).classes) == sorted(classes)
    assert find_classes(tmp_path).split is None


def test_a_split_within_a_split_is_refused(tmp_path):
    for split in CLASSES:
        touch(tmp_path, f"{split}/{split}/{CLASSES[split][0]}/0.jpg")
    with pytest.raises(UserError, match="train: train is called like a split"):
        find_classes(tmp_path)


def test_what_is_missing_is_named_with_what_to_do(tmp_path):
    tree(tmp_path, {"train": "Train"})
    with pytest.raises(
        UserError, match=r"Train is a split, but val/ and test/ is missing.*rename Train.*or give .*/Train as the root"
    ):
        find_classes(tmp_path)


def test_folders_that_are_complete_count_where_the_tables_are_not(tmp_path):
    tree(tmp_path, {"train": "train", "val": "val", "test": "test"})
    (tmp_path / "train.csv").write_text("Id,Category\n1,2\n")
    assert splits_of(tmp_path) == CLASSES


def tiny_imagenet(root, classes=("n01443537", "n01629819")):
    touch(root, *(f"train/{c}/images/{c}_{d}.JPEG" for c in classes for d in range(3)), "wnids.txt", "words.txt")
    for c in classes:
        (root / "train" / c / f"{c}_boxes.txt").write_text(f"{c}_0.JPEG\t0\t0\t9\t9\n")
    touch(root, *(f"val/images/val_{i}.JPEG" for i in range(4)), *(f"test/images/test_{i}.JPEG" for i in range(3)))
    rows = "".join(f"val_{i}.JPEG\t{classes[i % 2]}\t0\t32\t44\t62\n" for i in range(4))
    (root / "val" / "val_annotations.txt").write_text(rows)


def test_tiny_imagenet_is_read_as_it_is_distributed(tmp_path):
    tiny_imagenet(tmp_path)
    found = find_classes(tmp_path)
    assert found.split is None
    assert found.left_out == f"{tmp_path}/test is not used: its pictures have no labels"
    assert {c.name: [f.name for f in c.files] for c in found.classes} == {
        c: [f"{c}_{d}.JPEG" for d in range(3)] + [f"val_{i}.JPEG" for i in (j, j + 2)]
        for j, c in enumerate(("n01443537", "n01629819"))
    }
    assert [(c.name, c.group, len(c.files)) for c in find_classes(tmp_path / "train").classes] == [
        ("n01443537", "", 3),
        ("n01629819", "", 3),
    ]


def test_what_is_wrong_with_its_annotations_is_named(tmp_path):
    tiny_imagenet(tmp_path)
    table = tmp_path / "val" / "val_annotations.txt"
    table.write_text(table.read_text() + "val_9.JPEG\tn0\nval_1.JPEG\n")
    with pytest.raises(UserError) as caught:
        annotated_classes(tmp_path / "val")
    assert any("row 6: val_1.JPEG has no label" in problem for problem in caught.value.problems)
    assert any("row 5" in problem and "val_9.JPEG is not there" in problem for problem in caught.value.problems)


@pytest.mark.parametrize("lists", ["splits", "splits/bertinetto"])
@pytest.mark.parametrize("place", ["data/", "images/", ""])
def test_lists_of_classes_say_the_splits_as_in_cifar_fs(tmp_path, lists, place):
    touch(tmp_path, *(f"{place}{c}/{d}.png" for c in ("ant", "bee", "cat", "dog", "eel") for d in range(2)))
    (tmp_path / lists).mkdir(parents=True)
    for split, names in CLASSES.items():
        (tmp_path / lists / f"{split}.txt").write_text("\n".join(reversed(names)) + "\n\n")
    found = find_classes(tmp_path)
    assert {(c.name, split, len(c.files)) for c, split in zip(found.classes, found.split, strict=True)} == {
        (name, split, 2) for split, names in CLASSES.items() for name in names
    }
    assert "1 of the 5 classes" in found.left_out
    (tmp_path / lists / "val.txt").write_text("cat\ncow\n")
    with pytest.raises(UserError, match=r"val\.txt names cow, but .* has no class of that name"):
        find_classes(tmp_path)
    (tmp_path / lists / "val.txt").write_text("ant\n")
    with pytest.raises(UserError, match="1 classes are in more than one of train, val and test, such as ant"):
        find_classes(tmp_path)


def test_two_sets_of_lists_are_refused(tmp_path):
    touch(tmp_path, "data/ant/0.png", *(f"splits/{a}/{s}.txt" for a in "ab" for s in CLASSES))
    with pytest.raises(UserError, match="a and b each have lists"):
        find_classes(tmp_path)


def test_a_folder_images_within_each_class_is_none_itself(tmp_path):
    touch(
        tmp_path,
        "a/images/0.jpg",
        "group/b/Images/0.jpg",
        "c/images/0.jpg",
        "c/1.jpg",
        "d/images/0.jpg",
        "d/more/0.jpg",
    )
    assert [(c.name, c.group) for c in classes_in(tmp_path)] == [
        ("a", ""),
        ("c", ""),
        ("c/images", "c"),
        ("d/images", "d"),
        ("d/more", "d"),
        ("group/b", "group"),
    ]


@pytest.mark.parametrize(
    "name",
    [
        *("@eaDir", "#recycle", "@Recycle", ".thumbnails", "__MACOSX", ".ipynb_checkpoints", "lost+found"),
        *("$RECYCLE.BIN", "System Volume Information", ".Trash-1000", "__pycache__"),
    ],
)
def test_what_systems_put_among_pictures_is_no_class(tmp_path, name):
    touch(
        tmp_path,
        "a/1.jpg",
        f"{name}/a/1.jpg",
        f"a/{name}/SYNO_THUMB.jpg",
        f"a/{name}/1.jpg@SynoEAStream",
        "a/Thumbs.db",
    )
    touch(tmp_path, "a/1.jpg:Zone.Identifier", "a/desktop.ini", "a/._1.jpg", "a/Icon\r", ".DS_Store")
    assert [(c.name, [f.name for f in c.files]) for c in find_classes(tmp_path).classes] == [("a", ["1.jpg"])]


def test_all_folders_and_links_that_cannot_be_read_are_named_at_once(tmp_path, monkeypatch):
    touch(tmp_path, "a/1.jpg", "b/1.jpg", "c/1.jpg")
    (tmp_path / "c" / "2.jpg").symlink_to("nowhere")
    listed = os.listdir

    def refusing(folder):
        if os.path.basename(folder) in "ab":
            raise PermissionError(13, "Permission denied")
        return listed(folder)

    monkeypatch.setattr(picture_files.os, "listdir", refusing)
    with pytest.raises(UserError) as caught:
        classes_in(tmp_path)
    assert sorted(problem.split(": ", 1)[0] for problem in caught.value.problems) == [
        str(tmp_path / name) for name in ("a", "b", "c/2.jpg")
    ]
