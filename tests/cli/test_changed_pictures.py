"""Pictures that are added between two lives of a run, or before its test."""

import numpy as np
from PIL import Image
from support.runs import ROOT

from metasgd.data.images.image_folder import split_by_name


def in_order_of_the_split(n):
    """Numbers of classes, those first whose names come first where fractions decide."""
    split_of = {s: split_by_name([f"c{c:02d}" for c in range(n)], (s / n, 0, 1 - s / n)) for s in range(1, n + 1)}
    return sorted(range(n), key=lambda c: min(s for s in split_of if split_of[s][c] == "train"))


def add(folder, classes):
    for c in classes:
        (folder / f"c{c:02d}").mkdir(parents=True)
        for d in range(4):
            pixels = np.random.default_rng([c, d]).integers(256, size=(8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"c{c:02d}" / f"{d}.png")


def test_a_run_with_other_pictures_is_neither_resumed_nor_tested_on_classes_it_knows(metasgd, tmp_path):
    *added, _ = in_order_of_the_split(31)
    first_there, added = added[18:], added[:18]  # which take the first places, so that those of training become test's
    add(tmp_path / "data", first_there)
    options = {
        "trainer.max_steps": 2,
        "trainer.val_check_interval": 2,
        "trainer.accelerator": "cpu",
        "trainer.enable_progress_bar": "false",
        "data.root": "data",
        "data.cache_dir": "cache",
        "data.n_way": 2,
        "data.n_query": 1,
        "data.val_tasks": 2,
        "data.test_tasks": 2,
        "data.source": "ImageFolder",
        "data.source.init_args.image_size": 16,
        "data.source.init_args.channels": 1,
        "data.source.init_args.fractions": "[0.5,0.25,0.25]",
        "model.network": "Conv4",
        "model.network.init_args.in_channels": 1,
        "model.network.init_args.image_size": 16,
        "model.network.init_args.width": 4,
    }
    arguments = ["--config", str(ROOT / "configs" / "image_folder.yaml")]
    arguments += [a for o, v in options.items() for a in (f"--{o}", str(v))]
    first = metasgd("fit", *arguments)
    assert first.returncode == 0, first.stderr
    add(tmp_path / "data", added)
    longer = metasgd("fit", *arguments, "--trainer.max_steps", "4", "--ckpt_path", "last")
    assert longer.returncode == 2
    assert "last.ckpt was trained on other pictures than there are now: " in longer.stderr
    tested = metasgd("test", *arguments, "--ckpt_path", "last")
    assert tested.returncode == 2
    assert "last.ckpt was trained on" in tested.stderr
    assert "classes of the test split, such as c" in tested.stderr
    for place in ((tmp_path / "data") / f"c{c:02d}" for c in added):
        for file in place.iterdir():
            file.unlink()
        place.rmdir()
    assert metasgd("test", *arguments, "--ckpt_path", "last").returncode == 0
    resumed = metasgd("fit", *arguments, "--trainer.max_steps", "4", "--ckpt_path", "last")
    assert resumed.returncode == 0, resumed.stderr
