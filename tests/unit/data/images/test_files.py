import os
from pathlib import Path

import pytest

from metasgd.data.images.files import classes_in
from metasgd.data.images.layouts import labelled_pictures, unlabelled_pictures
from metasgd.data.images.tables import classes_of_table, read_table
from metasgd.errors import UserError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_pictures_are_found_at_any_depth_in_order(tmp_path):
    touch(tmp_path, "b/2.PNG", "b/1.jpg", "a/z/0.webp", "top.jpeg", ".hidden/1.png", "b/.1.png", "notes.txt")
    assert [p.relative_to(tmp_path).as_posix() for p in unlabelled_pictures(tmp_path)] == [
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


def test_linked_folders_and_files_are_followed(tmp_path):
    touch(tmp_path, "elsewhere/1.png", "elsewhere/deeper/2.png", "alone.png", "all/a/0.png")
    (tmp_path / "all" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "all" / "a" / "3.png").symlink_to(tmp_path / "alone.png")
    found = [p.relative_to(tmp_path / "all").as_posix() for p in unlabelled_pictures(tmp_path / "all")]
    assert found == ["a/0.png", "a/3.png", "linked/1.png", "linked/deeper/2.png"]
    assert [c.name for c in classes_in(tmp_path / "all")] == ["a", "linked", "linked/deeper"]


def test_links_that_lead_back_are_not_followed_in_a_circle(tmp_path):
    touch(tmp_path, "all/a/0.png", "elsewhere/1.png")
    (tmp_path / "all" / "a" / "up").symlink_to(tmp_path / "all")
    (tmp_path / "all" / "b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "all" / "a")  # and from there up again
    (tmp_path / "elsewhere" / "self").symlink_to(tmp_path / "elsewhere")
    found = [p.relative_to(tmp_path / "all").as_posix() for p in unlabelled_pictures(tmp_path / "all")]
    assert found == ["a/0.png", "b/1.png", "b/back/0.png"]


@pytest.mark.parametrize("name", ["a/2.png", "b"])
def test_a_link_to_nothing_is_named(tmp_path, name):
    """Of a picture, and of a whole class."""
    touch(tmp_path, "a/1.png")
    (tmp_path / name).symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match=f"{name}: a link to what is not there"):
        unlabelled_pictures(tmp_path)


@pytest.mark.parametrize(("name", "said"), [(b"caf\xe9/1.png", r"caf\\xe9/1.png"), (b"a/\xe9.png", r"a/\\xe9.png")])
def test_a_name_that_is_not_utf8_is_refused_in_escapes(tmp_path, name, said):
    touch(tmp_path, "a/1.png", os.fsdecode(name))
    with pytest.raises(UserError, match=f"{said}: its name is not UTF-8") as caught:
        unlabelled_pictures(tmp_path)
    assert str(caught.value).encode()  # it can be printed anywhere


@pytest.mark.parametrize("find", [labelled_pictures, unlabelled_pictures])
@pytest.mark.parametrize("stray", ["a/2.heic", "b/1.CR2", "a/noname", "beside.avif"])
def test_pictures_of_a_format_that_is_not_read_are_not_left_out_silently(tmp_path, find, stray):
    touch(
        tmp_path, "a/1.png", "a/notes.TXT", "meta.json", "README.md", "a/Thumbs.db", "desktop.ini", "a/.hidden", stray
    )
    with pytest.raises(
        UserError, match=f"{stray}: not of a format that is read .*jpg.*Save it as PNG or JPEG"
    ) as caught:
        find(tmp_path)
    assert len(caught.value.problems) == 1
    (tmp_path / stray).unlink()
    if stray == "b/1.CR2":  # an empty class is refused too
        (tmp_path / "b").rmdir()
    assert find(tmp_path)


def test_beside_the_classes_of_a_data_set_may_be_its_archive_but_in_them_nothing_that_is_not_read(tmp_path):
    touch(tmp_path, "a/1.png", "pictures.zip")
    assert [c.name for c in classes_in(tmp_path)] == ["a"]
    touch(tmp_path, "a/2.heic")
    with pytest.raises(UserError, match="a/2.heic: not of a format that is read"):
        classes_in(tmp_path)


@pytest.mark.parametrize("header", ["filename,label", "label,file", "file,width,label", "file, label"])
def test_a_table_in_either_spelling(tmp_path, header):
    touch(tmp_path, "images/1.jpg", "images/2.jpg", "images/3.jpg")
    values = {"file": "{}.jpg", "filename": "{}.jpg", "label": "{}", "width": "84"}
    labels = {1: "n02", 2: "n01", 3: "n02"}
    rows = [
        ",".join(values[c].format(labels[i] if c == "label" else i) for c in header.replace(" ", "").split(","))
        for i in labels
    ]
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


def test_the_pictures_of_a_query_need_no_labels(tmp_path):
    touch(tmp_path, "b.png", "a.png")
    (tmp_path / "query.csv").write_text("file,label\nb.png,\na.png,cat\n")
    assert unlabelled_pictures(tmp_path / "query.csv") == [tmp_path / "b.png", tmp_path / "a.png"]
    with pytest.raises(UserError, match="row 2: b.png has no label"):
        labelled_pictures(tmp_path / "query.csv")


def test_spaces_around_names_and_labels_do_not_count(tmp_path):
    touch(tmp_path, "1.png", "2.png", "3.png", "4 5.png")
    (tmp_path / "t.csv").write_text('file , label\n1.png, cat\n 2.png ,cat\n3.png,cat \n4 5.png, "big, cat"\n')
    found = classes_of_table(tmp_path / "t.csv", tmp_path)
    assert [(c.name, [f.name for f in c.files]) for c in found] == [
        ("big, cat", ["4 5.png"]),
        ("cat", ["1.png", "2.png", "3.png"]),
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("1.png,cat\n", "first row is 1.png,cat"),
        ("", "first row is missing"),
        ("file,label\n", "no rows"),
        ("file,label\n1.png,\n", "row 2: 1.png has no label"),
        ("file,label\n1.png,cat\n1.png,dog\n", "1.png is named 2 times"),
        ("file,label\n1.png,cat\n./1.png,dog\n", "1.png is named 2 times, as 1.png and ./1.png"),
        ("file,label\n1.png,cat\nx/../1.png,dog\n", "1.png is named 2 times, as 1.png and x/../1.png"),
        ("file,label\n1.png,cat\n9.png,dog\n", "row 3: .*9.png is not there"),
        (f"file,label\n1.png,cat\n{'9' * 300}.png,dog\n", "row 3: .*9.png is not there"),
        ("file,label\n1.png, \n", "row 2: 1.png has no label"),
        ("file;label\n1.png;cat\n", "t.csv: its columns are separated by ';': save it with commas"),
        ("label\tfile\ncat\t1.png\n", "t.csv: its columns are separated by tabs: save it with commas"),
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


def test_one_picture_under_a_full_and_a_short_name_is_named_twice(tmp_path):
    touch(tmp_path, "1.png")
    (tmp_path / "t.csv").write_text(f"file\n1.png\n{tmp_path}/1.png\n")
    with pytest.raises(UserError, match="1.png is named 2 times"):
        read_table(tmp_path / "t.csv", tmp_path)


def test_a_place_of_too_long_a_name_is_not_there(tmp_path):
    for find in (labelled_pictures, unlabelled_pictures):
        with pytest.raises(UserError, match="cannot be read .File name too long."):
            find(tmp_path / f"{'x' * 300}.csv")


@pytest.mark.parametrize("find", [labelled_pictures, unlabelled_pictures])
def test_one_picture_is_neither_a_folder_nor_a_table(find, tmp_path):
    touch(tmp_path, "a.PNG")
    with pytest.raises(UserError, match="a.PNG is a picture. Give the folder that holds the pictures, or a CSV file"):
        find(tmp_path / "a.PNG")
