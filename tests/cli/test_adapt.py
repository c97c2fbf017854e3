"""From a folder of pictures to predictions: trained, adapted and exported through the real commands."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from support.runs import TINY
from support.strokes import drawing, photograph
from torch import nn
from torchvision import models

import metasgd as package
from metasgd.cli.main import main
from metasgd.data.images.decoding import PictureForm, read_picture
from metasgd.data.transforms.affine import distorted
from metasgd.data.transforms.distortion import random_maps
from metasgd.nn.export import exported
from metasgd.nn.networks import Conv4
from metasgd.reporting.rates import rates_table

UNSEEN = range(300, 320)
FORM = PictureForm(channels=1, height=20, width=20, fit="crop")


@pytest.fixture
def checkpoint(drawings_run) -> Path:
    return drawings_run / "checkpoints" / "last.ckpt"


def pictures(folder: Path, characters, per_class: int, first: int = 0, take=lambda image, seed: image, suffix="png"):
    """``folder/cNNN/D.png`` of unseen characters."""
    for character in characters:
        place = folder / f"c{character}"
        place.mkdir(parents=True)
        for d in range(first, first + per_class):
            take(drawing(character, d), 1000 * character + d).save(place / f"{d}.{suffix}")
    return folder


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def accuracy(rows: list[dict[str, str]]) -> float:
    return float(np.mean([row["file"].split("/")[0] == row["label"] for row in rows]))


@pytest.fixture
def adapt(checkpoint, tmp_path, capsys, monkeypatch):
    """Runs ``adapt`` in this process; returns its exit code, what it said, and the predictions."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(support, query, *arguments, ckpt_path=checkpoint, output=tmp_path / "predictions.csv"):
        paths = {"ckpt_path": ckpt_path, "support": support, "query": query, "output": output}
        code = main(["adapt", *(a for o, v in paths.items() for a in (f"--{o}", str(v))), *map(str, arguments)])
        said = capsys.readouterr()
        return code, said.out + said.err, table(output) if output.suffix == ".csv" and output.is_file() else []

    return run


def test_folders_of_unseen_characters(checkpoint, tmp_path, metasgd):
    pictures(tmp_path / "support", UNSEEN[:5], 2)
    pictures(tmp_path / "query", UNSEEN[:5], 5, first=2)
    paths = ("--support", "support", "--query", "query", "--output", "out.csv")
    done = metasgd("adapt", "--ckpt_path", str(checkpoint), *paths)
    assert done.returncode == 0, done.stderr
    rows = table(tmp_path / "out.csv")
    classes = [f"c{c}" for c in UNSEEN[:5]]
    assert list(rows[0]) == ["file", "label", "probability", *classes]
    assert [row["file"] for row in rows] == [f"{c}/{d}.png" for c in classes for d in range(2, 7)]
    for row in rows:
        figures = [float(row[c]) for c in classes]
        assert sum(figures) == pytest.approx(1, abs=1e-5)
        assert float(row["probability"]) == max(figures) == float(row[row["label"]])
    assert accuracy(rows) > 0.6  # chance is 0.2
    assert "support: 10 pictures of 5 classes, 2 of each, as grey 20×20" in done.stdout
    assert "polarity: dark ink in 10 of 10, the checkpoint was trained on dark ink: taken as they are" in done.stdout
    assert "leave-one-out: " in done.stdout
    assert "of 10 support pictures are predicted right" in done.stdout
    network = package.load(checkpoint).module.network
    parameters = [name for name, _ in network.named_parameters() if "head.log_" not in name]  # the same in all steps
    assert re.findall(r"^│ (\S+) ", done.stdout, re.MULTILINE) == parameters


def test_several_checkpoints_predict_the_mean_of_their_probabilities(checkpoint, tmp_path, adapt):
    content = torch.load(checkpoint, weights_only=True)
    content["state_dict"] = {n: 0.9 * t if t.is_floating_point() else t for n, t in content["state_dict"].items()}
    torch.save(content, other := tmp_path / "other.ckpt")
    support, query = (pictures(tmp_path / name, UNSEEN[:5], 2, first) for name, first in (("s", 0), ("q", 2)))
    _, _, one = adapt(support, query)
    _, _, another = adapt(support, query, ckpt_path=other)
    code, said, both = adapt(support, query, "--save", tmp_path / "both.onnx", ckpt_path=f"{checkpoint}, {other}")
    assert code == 0
    assert f"{other}:" in said
    assert "together, leave-one-out: " in said
    classes = [f"c{c}" for c in UNSEEN[:5]]
    found, *alone = (np.array([[float(row[c]) for c in classes] for row in rows]) for rows in (both, one, another))
    assert np.abs(alone[0] - alone[1]).max() > 1e-3
    assert found == pytest.approx((alone[0] + alone[1]) / 2, abs=2e-6)
    session = onnxruntime.InferenceSession(tmp_path / "both.onnx")
    inputs = np.stack([read_picture(query / row["file"], FORM) for row in both]).astype(np.float32) / 255
    logits = session.run(None, {"x": inputs})[0]
    assert torch.from_numpy(logits).softmax(dim=1).numpy() == pytest.approx(found, abs=2e-5)
    ensemble = package.load([checkpoint, other])
    assert len(ensemble.members) == 2
    with pytest.raises(ValueError, match="trained for accuracy and mse"):
        package.load(["omniglot", "sinusoid"])
    code, said, _ = adapt(support, query, ckpt_path=f"{checkpoint},omniglot")
    assert code == 2
    assert "takes pictures of 20×20 in 1 channel" in said


def test_views_predict_the_mean_of_what_each_teaches(checkpoint, tmp_path, adapt):
    support, query = (pictures(tmp_path / name, UNSEEN[:5], 2, first) for name, first in (("s", 0), ("q", 2)))
    code, said, rows = adapt(support, query, "--inner_steps", 1, "--eval_views", 3, "--save", tmp_path / "all.pt")
    assert code == 0
    assert "predictions: mean of 3 views, the support pictures as they are and 2 times distorted" in said
    classes = [f"c{c}" for c in UNSEEN[:5]]
    labels = np.repeat(classes, 2)
    x = np.stack([read_picture(file, FORM) for file in sorted(support.glob("*/*.png"))])
    asked = np.stack([read_picture(query / row["file"], FORM) for row in rows])
    learner = package.load(checkpoint)
    each = [learner.adapt(x, labels, 1).predict_proba(asked)]
    for view in (1, 2):
        # by hand: Philox with key (seed 0, test) and counter (draws, view, task 0, use), on paper that is dark here
        stream = np.random.Generator(np.random.Philox(counter=[0, view, 0, 2], key=[0, 2]))
        moved = 255 - distorted(torch.from_numpy(255 - x), torch.from_numpy(random_maps(stream, len(x), 1.0)))
        each.append(learner.adapt(moved, labels, 1).predict_proba(asked))
    found = np.array([[float(row[c]) for c in classes] for row in rows])
    assert np.abs(each[0] - each[1]).max() > 0.001
    assert found == pytest.approx(sum(each) / 3, abs=2e-6)
    assert len(torch.load(tmp_path / "all.pt", weights_only=True)["network"]) == 3


@pytest.mark.parametrize("inverted", [False, True])
def test_photographs_of_either_polarity(tmp_path, adapt, inverted):
    """Noise, rotation, uneven light, blur, JPEG, colour and another size; light ink where training saw dark."""

    def take(image, seed):
        return photograph(image, seed, inverted)

    pictures(tmp_path / "support", UNSEEN[:5], 3, take=take, suffix="jpg")
    pictures(tmp_path / "query", UNSEEN[:5], 6, first=3, take=take, suffix="jpg")
    code, said, rows = adapt(tmp_path / "support", tmp_path / "query")
    assert code == 0
    assert f"polarity: {'light' if inverted else 'dark'} ink in 15 of 15" in said
    assert ("light and dark exchanged" in said) == inverted
    assert accuracy(rows) > 0.5  # chance is 0.2


def test_twenty_ways_from_twenty_files(tmp_path, adapt):
    """One picture per class, whose name is the class, from a learner trained with 5 ways."""
    (tmp_path / "support").mkdir()
    for character in UNSEEN:
        drawing(character, 0).save(tmp_path / "support" / f"c{character}.png")
    pictures(tmp_path / "query", UNSEEN, 3, first=1)
    code, said, rows = adapt(tmp_path / "support", tmp_path / "query")
    assert code == 0
    assert "support: 20 pictures of 20 classes, 1 of each" in said
    assert "no class has two pictures" in said
    assert len(rows[0]) == 3 + 20
    assert accuracy(rows) > 0.15  # chance is 0.05, and its standard deviation 0.03


@pytest.fixture
def unequal(tmp_path):
    """A support set of 1 to 3 pictures of each class, and a query."""
    for n, character in enumerate(UNSEEN[:3], start=1):
        pictures(tmp_path / "support", [character], n)
    return tmp_path / "support", pictures(tmp_path / "query", UNSEEN[:3], 4, first=3)


def test_the_same_predictions_from_the_command_python_and_the_exports(tmp_path, checkpoint, adapt, unequal):
    support, query = unequal
    saved = {suffix: tmp_path / f"adapted{suffix}" for suffix in (".pt", ".onnx", ".pt2")}
    for place in saved.values():
        code, said, rows = adapt(support, query, "--save", place, "--inner_steps", 3)
        assert code == 0
        assert "after 3 inner steps" in said
        assert "1 to 3 of each" in said
    classes = [f"c{c}" for c in UNSEEN[:3]]
    command = np.array([[float(row[c]) for c in classes] for row in rows])

    files = sorted(support.glob("*/*.png"))
    x = np.stack([read_picture(path, FORM) for path in files])
    asked = np.stack([read_picture(query / row["file"], FORM) for row in rows])
    python = package.load(checkpoint).adapt(x, [path.parent.name for path in files], inner_steps=3).predict_proba(asked)
    np.testing.assert_allclose(command, python, atol=1e-5)

    inputs = asked.astype(np.float32) / 255
    session = onnxruntime.InferenceSession(saved[".onnx"])
    by_onnx = torch.from_numpy(session.run(["logits"], {"x": inputs})[0]).softmax(dim=1)
    np.testing.assert_allclose(command, by_onnx, atol=1e-4)
    about = {name: json.loads(value) for name, value in session.get_modelmeta().custom_metadata_map.items()}
    assert about["classes"] == classes
    assert about["pictures"] == {"channels": 1, "height": 20, "width": 20, "fit": "crop", "inverted": False}

    by_program = torch.export.load(saved[".pt2"]).module()(torch.from_numpy(inputs)).softmax(dim=1)
    np.testing.assert_allclose(command, by_program, atol=1e-4)

    found = torch.load(saved[".pt"], weights_only=True)
    assert found["classes"] == classes
    plain = exported(Conv4(**found["network"]["init_args"]), n_way=len(found["classes"]))
    plain.load_state_dict(found["state_dict"])
    np.testing.assert_allclose(command, plain(torch.from_numpy(inputs)).softmax(dim=1), atol=1e-5)


def test_tables_in_place_of_folders_keep_their_order(tmp_path, adapt, unequal):
    support, query = unequal
    _, _, by_folder = adapt(support, query)
    rows = [(p.relative_to(support).as_posix(), p.parent.name) for p in sorted(support.glob("*/*.png"))]
    (support / "support.csv").write_text("\n".join(",".join(row) for row in [("file", "label"), *rows[::-1]]))
    asked = [row["file"] for row in by_folder][::-1]
    (query / "query.csv").write_text("\n".join(["file", *asked]))
    code, _, by_table = adapt(support / "support.csv", query / "query.csv")
    assert code == 0
    assert [row["file"] for row in by_table] == asked
    for row, other in zip(by_table, by_folder[::-1], strict=True):
        assert float(row["probability"]) == pytest.approx(float(other["probability"]), abs=1e-4)


def test_a_query_of_full_names_elsewhere_and_of_empty_labels(tmp_path, adapt, unequal):
    support, query = unequal
    (tmp_path / "lists").mkdir()
    asked = [str(query / "c301" / "4.png"), str(query / "c300" / "3.png")]
    (tmp_path / "lists" / "query.csv").write_text("\n".join(["file,label", *(f"{file}," for file in asked)]))
    code, _, rows = adapt(support, tmp_path / "lists" / "query.csv")
    assert code == 0
    assert [row["file"] for row in rows] == asked
    (query / "query.csv").write_text("\n".join(["file", *asked]))
    assert [row["file"] for row in adapt(support, query / "query.csv")[2]] == ["c301/4.png", "c300/3.png"]


def test_what_is_said_keeps_names_that_look_like_markup_and_is_not_wrapped(tmp_path, adapt, unequal, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    support, query = unequal
    (tmp_path / "one").mkdir()
    shutil.copy(query / "c300" / "3.png", tmp_path / "one")
    for name in ("[red]out.csv", "x[/foo].csv", "a :smile: b.csv"):
        output = tmp_path / "ad" / name
        code, said, rows = adapt(support, tmp_path / "one", output=output)
        assert code == 0
        assert [row["file"] for row in rows] == ["3.png"]
        assert f"written: {output}, with the predictions for 1 picture" in said.splitlines()
    assert any(re.fullmatch("polarity: dark ink in 6 of 6, .* taken as they are", line) for line in said.splitlines())


def test_rates_are_listed_in_the_order_of_the_network():
    rates = [{"z": torch.ones(2), "a": torch.zeros(2), "m": -torch.ones(1)}]
    table = rates_table(rates, ["a", "fixed", "m", "z"])
    columns = [list(column.cells) for column in table.columns]
    assert columns[0] == ["a", "m", "z"]
    assert columns[3] == ["0", "-1", "1"]


def test_sets_and_unknown_pictures_by_what_is_left_out(tmp_path, checkpoint, adapt):
    """Both columns as computed here, from the learner's outputs for left-out and for query pictures."""
    support = pictures(tmp_path / "support", UNSEEN[:4], 5)
    query = pictures(tmp_path / "query", [*UNSEEN[:4], *UNSEEN[10:13]], 3, first=5)
    code, said, rows = adapt(support, query, "--inner_steps", 1, "--coverage", 0.9, "--unknown", 0.1)
    assert code == 0
    files = sorted(support.glob("*/*.png"))
    x, y = np.stack([read_picture(path, FORM) for path in files]), np.array([path.parent.name for path in files])
    learner, classes = package.load(checkpoint), np.unique(y)
    left_out = torch.from_numpy(np.stack([row for _, row in learner.left_out(x, y, 1)])).double()
    asked = np.stack([read_picture(query / row["file"], FORM) for row in rows])
    outputs = torch.from_numpy(learner.adapt(x, y, 1).decision_function(asked)).double()
    truth = torch.from_numpy(np.unique(y, return_inverse=True)[1])
    bound = left_out.softmax(1)[torch.arange(20), truth].sort(descending=True).values[19 - 1]  # 21 · 0.9 = 18.9
    lowest = left_out.amax(1).sort().values[2 - 1]  # 21 · 0.1 = 2.1
    for row, z in zip(rows, outputs, strict=True):
        expected = {str(classes[z.argmax()]), *classes[(z.softmax(0) >= bound).numpy()].tolist()}
        assert set(row["set"].split("|")) == expected
        assert row["set"].split("|")[0] == classes[z.argmax()]
        assert row["label"] == ("unknown" if z.max() < lowest else classes[z.argmax()])
    n_unknown = sum(row["label"] == "unknown" for row in rows)
    sizes = [len(row["set"].split("|")) for row in rows]
    assert f"unknown: {n_unknown} of 21 pictures" in said
    assert f"sets: {np.mean(sizes):.2f} classes each on average" in said


def test_sets_need_enough_pictures_and_other_names(tmp_path, adapt, unequal):
    support, query = unequal
    code, said, rows = adapt(support, query, "--coverage", 0.95, "--unknown", 0.05)
    assert code == 2
    assert not rows
    assert "--coverage is 0.95, which needs at least 19 support examples whose class has others: there are 5" in said
    code, said, _ = adapt(support, query, "--unknown", 1.5)
    assert code == 2
    assert "--unknown is 1.5: a share above 0 and below 1 is needed" in said
    (support / "c300").rename(support / "unknown")
    (support / "c301").rename(support / "set")
    assert adapt(support, query)[0] == 0
    code, said, _ = adapt(support, query, "--unknown", 0.3, "--coverage", 0.7)
    assert code == 2
    assert "a class is called unknown" in said
    assert "a class is called set" in said
    code, said, _ = adapt(support, query, "--unknown", 0.3, "--transductive", "true")
    assert code == 2
    assert "--transductive is true" in said


def test_queries_influence_each_other_only_if_asked(tmp_path, adapt, unequal):
    support, query = unequal
    alone = tmp_path / "alone"
    (alone / "c300").mkdir(parents=True)
    shutil.copy(query / "c300" / "3.png", alone / "c300")
    first = [
        [float(adapt(support, asked, "--transductive", t)[2][0]["c300"]) for asked in (query, alone)]
        for t in ("false", "true")
    ]
    assert first[0][0] == pytest.approx(first[0][1], abs=1e-5)
    assert abs(first[1][0] - first[1][1]) > 1e-3


def test_polarity_as_one_says(tmp_path, adapt, unequal):
    code, said, opposite = adapt(*unequal, "--polarity", "opposite")
    assert code == 0
    assert "light and dark exchanged, as polarity opposite says" in said
    assert opposite != adapt(*unequal)[2]


def test_support_pictures_that_disagree_are_pointed_out(tmp_path, adapt, unequal):
    support, query = unequal
    for path in sorted(support.glob("*/*.png"))[:2]:
        Image.eval(Image.open(path), lambda v: 255 - v).save(path)
    assert "they disagree" in adapt(support, query)[1]


# --- what is refused


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("folder.pt", "--save is .*folder.pt, which is a folder"),
        ("file/x.pt", "--save is .*file/x.pt: it cannot be written .Not a directory"),
        ("n" * 300 + ".pt", "--save is .*it cannot be written .File name too long"),
        ("x.onnx", "writing ONNX needs onnx and onnxscript, not installed here: pip install onnx onnxscript"),
    ],
)
def test_what_cannot_be_saved_is_named_before_the_work(tmp_path, adapt, unequal, monkeypatch, place, said):
    (tmp_path / "folder.pt").mkdir()
    (tmp_path / "file").touch()
    monkeypatch.setattr("metasgd.nn.export.find_spec", lambda name: None)
    monkeypatch.setattr(package.learner.meta_learner.MetaLearner, "adapt", None)  # which is not reached
    before = sorted(tmp_path.rglob("*"))
    code, printed, _ = adapt(*unequal, "--save", tmp_path / place)
    assert code == 2
    assert re.search(said, printed)
    assert sorted(tmp_path.rglob("*")) == before


def test_names_that_a_spreadsheet_would_run_are_guarded(tmp_path, adapt):
    for d, name in enumerate(("=cmd()", "[red]", "-1")):
        for folder in ("support", "query"):
            (tmp_path / folder / name).mkdir(parents=True)
            drawing(UNSEEN[d], folder == "query").save(tmp_path / folder / name / "0.png")
    code, said, rows = adapt(tmp_path / "support", tmp_path / "query")
    assert code == 0, said
    assert list(rows[0])[3:] == ["-1", "'=cmd()", "[red]"]
    assert [row["file"] for row in rows] == ["'-1/0.png", "'=cmd()/0.png", "[red]/0.png"]


def wrong_suffix(support, query):
    return support, query, ["--save", query / "adapted.bin"]


def one_class(support, query):
    for folder in sorted(support.iterdir())[1:]:
        shutil.rmtree(folder)
    return support, query, []


def no_support(support, query):
    return support / "nowhere", query, []


def no_query(support, query):
    shutil.rmtree(query)
    query.mkdir()
    return support, query, []


def damaged_support(support, query):
    (support / "c300" / "0.png").write_bytes(b"no picture")
    return support, query, []


def damaged_query(support, query):
    (query / "c301" / "4.png").write_bytes(b"no picture")
    return support, query, []


def empty_class(support, query):
    (support / "c305" / ".hidden").mkdir(parents=True)
    return support, query, []


def stray_picture(support, query):
    shutil.copy(support / "c300" / "0.png", support)
    return support, query, []


def reserved_name(support, query):
    (support / "c300").rename(support / "label")
    return support, query, []


def negative_steps(support, query):
    return support, query, ["--inner_steps", "-1"]


def views_of_sets(support, query):
    return support, query, ["--eval_views", 4, "--coverage", 0.5]


def no_view(support, query):
    return support, query, ["--eval_views", 0]


def unread_format(support, query):
    (support / "c301" / "IMG_1.HEIC").write_bytes(b"a camera's")
    return support, query, []


def unread_query(support, query):
    (query / "IMG_1.HEIC").write_bytes(b"a camera's")
    return support, query, []


def link_to_nothing(support, query):
    (query / "c301" / "9.png").symlink_to("nowhere.png")
    return support, query, []


def saved_over_a_table(support, query):
    rows = [f"{p.relative_to(support).as_posix()},{p.parent.name}" for p in sorted(support.glob("*/*.png"))]
    (support / "s.pt").write_text("\n".join(["file,label", *rows]))
    return support / "s.pt", query, ["--save", support / "c300" / ".." / "s.pt"]


def white_on_nothing(support, query):
    for path in sorted(support.glob("*/*.png"))[:2]:
        image = Image.open(path).convert("L")
        white = Image.new("L", image.size, 255)
        Image.merge("LA", (white, Image.eval(image, lambda v: 255 - v))).save(path)
    return support, query, []


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (wrong_suffix, "--save is .*adapted.bin: a name that ends in .pt, .onnx, .pt2"),
        (one_class, "--support is .*support: it has 1 class, c300, and at least 2 are needed"),
        (no_support, "--support: .*nowhere cannot be read"),
        (no_query, "--query: .*query: no pictures"),
        (damaged_support, "--support: .*c300/0.png: not an intact picture"),
        (damaged_query, r"(?s)\A(?!.*loss on the support set).*--query: .*c301/4.png: not an intact picture"),
        (empty_class, "--support: .*support: c305 is empty, and a class needs a picture. Put some there"),
        (stray_picture, "0.png lies beside the classes"),
        (reserved_name, "a class is called label"),
        (negative_steps, "--inner_steps is -1: at least 0"),
        (views_of_sets, "--eval_views is 4, so that predictions are means over views, and --coverage"),
        (no_view, "--eval_views is 0: at least 1"),
        (unread_format, "--support: .*c301/IMG_1.HEIC: not of a format that is read"),
        (unread_query, "--query: .*query/IMG_1.HEIC: not of a format that is read"),
        (link_to_nothing, "--query: .*c301/9.png: a link to what is not there"),
        (saved_over_a_table, "--save is .*s.pt, which is read here and would be overwritten"),
        (white_on_nothing, "2 of the 6 pictures are blank, .* the first .*c300/0.png. Transparent parts become white"),
    ],
)
def test_a_mistake_ends_in_one_message_and_leaves_no_file(tmp_path, adapt, unequal, spoil, said):
    support, query, arguments = spoil(*unequal)
    code, text, rows = adapt(support, query, *arguments)
    assert code == 2
    assert re.search(said, text), text
    assert "Traceback" not in text
    assert rows == []
    assert not list(tmp_path.glob("*.csv*"))


def test_an_output_that_cannot_be_written(tmp_path, adapt, unequal):
    (tmp_path / "folder.csv").mkdir()
    code, said, _ = adapt(*unequal, output=tmp_path / "folder.csv")
    assert code == 2
    assert f"--output is {tmp_path}/folder.csv, which is a folder: give the name of a file to write" in said


def test_an_output_that_is_no_table(tmp_path, adapt, unequal):
    picture = unequal[1] / "c300" / "3.png"
    before = picture.read_bytes()
    code, said, _ = adapt(*unequal, output=picture)
    assert code == 2
    assert f"--output is {picture}: a name that ends in .csv is needed" in said
    assert picture.read_bytes() == before


@pytest.mark.parametrize("by_link", [False, True])
def test_an_output_that_is_read_stays_as_it_is(tmp_path, adapt, unequal, by_link):
    support, query = unequal
    asked = query / "asked.csv"
    asked.write_text("file\nc300/3.png\n")
    output = tmp_path / "other.csv" if by_link else query / "c300" / ".." / "asked.csv"
    if by_link:
        output.symlink_to(asked)
    code, said, _ = adapt(support, asked, output=output)
    assert code == 2
    assert f"--output is {output}, which is read here and would be overwritten" in said
    assert asked.read_text() == "file\nc300/3.png\n"


def test_a_checkpoint_of_curves_is_refused(tmp_path, adapt, unequal, metasgd):
    assert metasgd("fit", *TINY).returncode == 0
    code, said, _ = adapt(*unequal, ckpt_path=tmp_path / "runs/sinusoid/version_0/checkpoints/last.ckpt")
    assert code == 2
    assert "was not trained to tell pictures apart" in said


def test_a_backbone_needs_no_checkpoint(tmp_path, capsys, monkeypatch):
    """Classes of a colour, which any network tells apart; and classes of both colours, which none does."""
    monkeypatch.setenv("COLUMNS", "200")
    rng = np.random.default_rng(0)
    for name, colour in {"red": (200, 30, 30), "blue": (30, 30, 200)}.items():
        for k in range(6):
            part = tmp_path / ("support" if k < 4 else "query") / name
            part.mkdir(parents=True, exist_ok=True)
            spread = rng.integers(-20, 20, (40, 50, 3))
            Image.fromarray((np.array(colour) + spread).clip(0, 255).astype(np.uint8)).save(part / f"{k}.jpg")
    torch.manual_seed(0)
    network = models.mobilenet_v3_small()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    network(torch.rand(16, 3, 64, 64))  # whose statistics it stores, as a trained network has them
    torch.save({"state_dict": {f"model.{n}": t for n, t in network.state_dict().items()}}, tmp_path / "w.ckpt")
    places = ("--support", str(tmp_path / "support"), "--query", str(tmp_path / "query"))
    command = ["adapt", "--backbone", "mobilenet_v3_small", "--weights", str(tmp_path / "w.ckpt"), *places]
    output, saved = tmp_path / "out.csv", tmp_path / "net.pt"
    assert main([*command, "--output", str(output), "--save", str(saved)]) == 0
    said = capsys.readouterr().out
    assert "as colour 224×224" in said
    assert "leave-one-out: 8 of 8 support pictures" in said
    assert accuracy(table(output)) == 1
    assert torch.load(saved, weights_only=True)["network"]["init_args"]["model"] == "mobilenet_v3_small"
    for k in (0, 1):  # then as many of each colour are in both classes
        (tmp_path / "support" / "red" / f"{k}.jpg").rename(tmp_path / "swap.jpg")
        (tmp_path / "support" / "blue" / f"{k}.jpg").rename(tmp_path / "support" / "red" / f"{k}.jpg")
        (tmp_path / "swap.jpg").rename(tmp_path / "support" / "blue" / f"{k}.jpg")
    assert main([*command, "--output", str(output)]) == 3
    assert "warning: that is no better than chance" in capsys.readouterr().out
    assert len(table(output)) == 4
