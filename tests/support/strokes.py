"""Drawings made by the tests: characters of three strokes each, and photographs of them."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIDE = 40


def drawing(character: int, d: int, side: int = SIDE) -> Image.Image:
    """Drawing d of a character, dark on light: its strokes' ends tremble, and it is a little rotated and moved."""
    ends = np.random.default_rng(character).uniform(0.15, 0.85, size=(3, 2, 2))
    hand = np.random.default_rng([character, d])
    angle = hand.uniform(-0.12, 0.12)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    ends = (ends + hand.normal(scale=0.02, size=ends.shape) - 0.5) @ rotation.T + 0.5
    ends += hand.uniform(-0.04, 0.04, size=2)
    large = Image.new("L", (4 * side, 4 * side), 255)
    pen = ImageDraw.Draw(large)
    for stroke in ends:
        pen.line([tuple(4 * side * end) for end in stroke], fill=0, width=side // 4)
    return large.resize((side, side), Image.Resampling.LANCZOS)


def photograph(image: Image.Image, seed: int, inverted: bool) -> Image.Image:
    """The drawing in colour on grey paper, enlarged, rotated, unevenly lit, noisy, and out of a camera's JPEG."""
    stream = np.random.default_rng(seed)
    rotated = image.resize((96, 96)).rotate(
        float(stream.uniform(-10, 10)), fillcolor=255, resample=Image.Resampling.BICUBIC
    )
    pixels = np.asarray(rotated.filter(ImageFilter.GaussianBlur(1)), dtype=np.float64)
    pixels = 255 - pixels if inverted else pixels
    light = np.linspace(0.85, 1.0, 96)[:, None] * np.linspace(1.0, 0.9, 96)
    shades = (40 + pixels * 0.7) * light
    colour = shades[..., None] * np.array([1.0, 0.95, 0.85]) + stream.normal(scale=8, size=(96, 96, 3))
    file = io.BytesIO()
    Image.fromarray(colour.clip(0, 255).astype(np.uint8)).save(file, format="JPEG", quality=40)
    return Image.open(file)


def write_tree(root: Path, characters: dict[str, range], drawings: int) -> Path:
    """``root/SPLIT/CHARACTER/D.png`` for the characters of each split."""
    for split, own in characters.items():
        for character in own:
            folder = root / split / f"c{character:03d}"
            folder.mkdir(parents=True)
            for d in range(drawings):
                drawing(character, d).save(folder / f"{d}.png")
    return root
