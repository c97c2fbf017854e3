from pathlib import Path

import pytest

from metasgd.data.picture_files import classes_in, classes_of_table, pictures_in, read_table
from metasgd.errors import UserError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_pictures_are_found_at_any_depth_in_order(tmp_path):
    touch(tmp_path, "b/2.PNG", "b/1.jpg", "a/z/0.webp", "top.jpeg", ".hidden/1.png", "b/.1.png", "notes.txt")
    assert [p.relative_to(tmp_path).as_posix() for p in pictures_in(tmp_path)] == [
        "a/z/0.webp",
        "b/1.jpg",
        "b/2.PNG",
        "top.jpeg",
    ]


def test_the_folders_that_hold_pictures_are_the_classes(tmp_path):
    touch(tmp_path, "greek/alpha/1.png", "greek/alpha/2.png", "greek/beta/1.png", "dog/1.jpg", "empty/notes.txt")
    found = classes_in(tmp_path)
    assert [(c.name, c.group, len(c.files)) for c in found] == [
        ("dog", "", 1),
        ("greek/alpha", "greek", 2),
        ("greek/beta", "greek", 1),
    ]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([], "no pictures"),
        (["a/notes.txt"], "no pictures"),
        (["a/1.png", "stray.png"], "stray.png lies beside the classes"),
    ],
)
def test_folders_without_classes(tmp_path, names, said):
    touch(tmp_path, *names)
    with pytest.raises(UserError, match=said):
        classes_in(tmp_path)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="nowhere cannot be read"):
        classes_in(tmp_path / "nowhere")


@pytest.mark.parametrize("header", ["filename,label", "label,file", "file,width,label"])
def test_a_table_in_either_spelling(tmp_path, header):
    touch(tmp_path, "images/1.jpg", "images/2.jpg", "images/3.jpg")
    values = {"file": "{}.jpg", "filename": "{}.jpg", "label": "{}", "width": "84"}
    labels = {1: "n02", 2: "n01", 3: "n02"}
    rows = [",".join(values[c].format(labels[i] if c == "label" else i) for c in header.split(",")) for i in labels]
    table = tmp_path / "train.csv"
    table.write_text("\n".join([header, *rows]))
    found = classes_of_table(table, tmp_path / "images")
    assert [(c.name, [f.name for f in c.files]) for c in found] == [("n01", ["2.jpg"]), ("n02", ["1.jpg", "3.jpg"])]


def test_a_table_without_labels_is_a_list_of_files(tmp_path):
    touch(tmp_path, "b.png", "a.png")
    (tmp_path / "query.csv").write_text("file\nb.png\na.png\n")
    assert read_table(tmp_path / "query.csv", tmp_path) == [(tmp_path / "b.png", None), (tmp_path / "a.png", None)]
    with pytest.raises(UserError, match="no column label"):
        classes_of_table(tmp_path / "query.csv", tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("1.png,cat\n", "first row is 1.png,cat"),
        ("", "first row is missing"),
        ("file,label\n", "no rows"),
        ("file,label\n1.png,\n", "row 2: 1.png has no label"),
        ("file,label\n1.png,cat\n1.png,dog\n", "1.png is named 2 times"),
        ("file,label\n1.png,cat\n9.png,dog\n", "row 3: .*9.png is not there"),
        ("file,label\n" + "".join(f"{i}.png,cat\n" for i in range(2, 20)), "and 8 more"),
    ],
)
def test_what_is_wrong_with_a_table_is_named(tmp_path, content, said):
    touch(tmp_path, "1.png")
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(UserError, match=said):
        classes_of_table(tmp_path / "t.csv", tmp_path)


def test_a_table_that_is_no_text(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not a CSV file in UTF-8"):
        read_table(tmp_path / "t.csv", tmp_path)
