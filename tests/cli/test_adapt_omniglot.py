"""End to end on real pictures: trained on some alphabets of Omniglot, adapted to characters of another."""

import csv
import zipfile
from pathlib import Path

import pytest
from support.commands import succeeded
from support.runs import ROOT

OMNIGLOT = ROOT.parent / "shared/data/omniglot"
if not OMNIGLOT.is_dir():
    OMNIGLOT = ROOT.parents[1] / "shared/data/omniglot"  # from a worktree
TRAIN = ("Greek", "Hebrew", "Futurama", "Early_Aramaic")
VAL, UNSEEN = "Tagalog", "Angelic"

pytestmark = pytest.mark.skipif(
    not (OMNIGLOT / "images_background.zip").is_file(), reason="Omniglot's archives are not beside the project"
)


def extract(part: str, alphabet: str, place: Path, drawings: range, flat: bool = False) -> None:
    """``place/ALPHABET/CHARACTER/NN.png``; flat: ``place/CHARACTER.png`` of the one drawing."""
    with zipfile.ZipFile(OMNIGLOT / f"images_{part}.zip") as archive:
        for name in archive.namelist():
            if f"/{alphabet}/" not in name or not name.endswith(".png"):
                continue
            _, _, character, file = name.split("/")
            number = int(file.split("_")[1][:2])
            if number in drawings:
                path = place / f"{character}.png" if flat else place / alphabet / character / f"{number:02d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(archive.read(name))


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("omniglot")
    for alphabet in TRAIN:
        extract("background", alphabet, folder / "data" / "train", range(1, 9))
    extract("background", VAL, folder / "data" / "val", range(1, 9))
    extract("evaluation", UNSEEN, folder / "data" / "test", range(1, 9))
    options = {
        "trainer.max_steps": 80,
        "trainer.val_check_interval": 80,
        "trainer.accelerator": "cpu",
        "trainer.enable_progress_bar": "false",
        "data.root": "data",
        "data.cache_dir": "cache",
        "data.n_query": 3,
        "data.val_tasks": 10,
        "data.source": "ImageFolder",
        "data.source.init_args.image_size": 28,
        "data.source.init_args.channels": 1,
        "data.source.init_args.ink": "dark",
        "model.network": "Conv4",
        "model.network.init_args.in_channels": 1,
        "model.network.init_args.image_size": 28,
        "model.network.init_args.width": 16,
        "model.network.init_args.downsample": "stride",
        "model.outer.optimizer.init_args.lr": 0.005,
    }
    config = ["--config", str(ROOT / "configs" / "image_folder.yaml")]
    succeeded("fit", *config, *(a for o, v in options.items() for a in (f"--{o}", str(v))), cwd=folder)
    return folder / "runs/image_folder/version_0/checkpoints/last.ckpt"


@pytest.mark.parametrize("shots", [1, 2])
def test_twenty_ways_within_an_alphabet_that_training_never_saw(trained, tmp_path, metasgd, shots):
    """Lake et al.'s one-shot layout: 20 files with one picture per class; and folders with several."""
    extract("evaluation", UNSEEN, tmp_path / "support", range(1, 1 + shots), flat=shots == 1)
    extract("evaluation", UNSEEN, tmp_path / "query", range(10, 14))
    support = "support" if shots == 1 else f"support/{UNSEEN}"
    paths = ("--support", support, "--query", f"query/{UNSEEN}", "--output", "out.csv")
    done = metasgd("adapt", "--ckpt_path", str(trained), *paths)
    assert done.returncode == 0, done.stderr
    assert "of 20 classes" in done.stdout
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 20 * 4
    right = sum(row["file"].split("/")[0] == row["label"] for row in rows) / len(rows)
    assert right > 0.13  # chance is 0.05, and its standard deviation 0.024
