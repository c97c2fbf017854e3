"""Damaged pictures and archives through the real command line: one message, exit code 2, and nothing is left."""

import os

import pytest
from support.fake_omniglot import BACKGROUND, EVALUATION, drawings, write_archive
from support.runs import ROOT
from support.strokes import drawing, write_tree


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def empty(path):
    os.truncate(path, 0)


def animate(path):
    frames = [drawing(0, d) for d in range(3)]
    frames[0].save(path, save_all=True, append_images=frames[1:])


DAMAGE = {
    truncate: "not an intact picture",
    empty: "not an intact picture",
    animate: "it has 3 frames",
}


def refused(done, *said):
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("error:") == len(said), done.stderr
    for part in said:
        assert part in done.stderr


@pytest.mark.parametrize(("damage", "where"), [(truncate, "query"), (empty, "support"), (animate, "query")])
def test_adapt_names_a_damaged_picture_and_writes_nothing(damage, where, drawings_run, tmp_path, metasgd):
    write_tree(tmp_path, {"support": range(300, 303), "query": range(300, 303)}, drawings=2)
    damage(tmp_path / where / "c301" / "1.png")
    before = sorted(tmp_path.rglob("*"))
    paths = ("--support", "support", "--query", "query", "--output", "out.csv")
    done = metasgd("adapt", "--ckpt_path", str(drawings_run / "checkpoints" / "last.ckpt"), *paths)
    refused(done, f"{where}/c301/1.png: ")
    assert DAMAGE[damage] in done.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_fit_names_all_damaged_pictures_and_starts_no_run(tmp_path, metasgd):
    write_tree(tmp_path / "data", {"train": range(5), "val": range(5, 10), "test": range(10, 15)}, drawings=2)
    for c, damage in enumerate(DAMAGE):
        damage(tmp_path / "data" / "train" / f"c{c:03d}" / "0.png")
    config = ["--config", str(ROOT / "configs" / "image_folder.yaml"), "--trainer.accelerator", "cpu"]
    done = metasgd("fit", *config, "--data.root", "data", "--data.cache_dir", "cache")
    refused(done, *(f"c{c:03d}/0.png: " for c in range(len(DAMAGE))))
    for said in DAMAGE.values():
        assert said in done.stderr
    assert not [path for path in tmp_path.iterdir() if path.name not in ("data", "cache")]
    assert not list((tmp_path / "cache").iterdir())


FIRST = f"{BACKGROUND}/Aleph/character01/01_01.png"
ARCHIVES = {
    "a bomb": ({FIRST: bytes(10_000_000)}, "unpacks to 10000000 bytes, 65536 are allowed"),
    "cut short": (None, "damaged or incomplete"),
}


@pytest.mark.parametrize("case", ARCHIVES)
def test_fit_names_a_damaged_archive_and_unpacks_none_of_it(case, tmp_path, metasgd):
    added, said = ARCHIVES[case]
    write_archive(tmp_path / "data", EVALUATION, drawings(EVALUATION))
    archive = write_archive(tmp_path / "data", BACKGROUND, drawings(BACKGROUND) | (added or {}))
    if added is None:
        truncate(archive)
    config = ["--config", str(ROOT / "configs" / "omniglot.yaml"), "--trainer.accelerator", "cpu"]
    done = metasgd("fit", *config, "--data.root", "data", "--data.cache_dir", "cache")
    refused(done, said)
    assert f"{BACKGROUND}.zip" in done.stderr
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".png", ".ckpt", ".yaml")]
    assert not (tmp_path / "runs").exists()
