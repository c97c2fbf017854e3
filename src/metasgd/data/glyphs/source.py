"""Glyphs: printed letters of many scripts, drawn on the spot from the fonts that matplotlib ships."""

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from metasgd.data.cache import digest_of, load_or_build
from metasgd.data.class_pool import ClassPool
from metasgd.data.contents import Contents
from metasgd.data.glyphs.letters import FONT_SIZE, SCRIPTS, Letter, Mask, fonts_digest, full_size_mask_of, letters
from metasgd.data.images.decoding import PictureForm
from metasgd.data.images.polarity import Ink
from metasgd.data.rng import SPLITS, Split
from metasgd.data.source import ClassSource
from metasgd.data.strokes.thinning import middle_lines
from metasgd.errors import raise_problems

DRAWING = 1  # a number to raise when drawings change, so that caches of the old ones are left aside
FILL = (0.62, 0.80)  # the longer side of the ink, of the image's side
SHIFT = 0.06  # of the image's side
KNOTS = 4  # of the elastic field, along each side
WEIGHT = (0.30, 0.62)  # where a blurred edge is cut: low is a bold stroke
BLUR = 5  # pixels of the typeface's own rendering
MARGIN = 0.04  # of the image's side, which no ink enters
SAMPLES = 2  # along each side of a pixel


@dataclass(frozen=True)
class Hand:
    """How unsteadily a letter is drawn.

    Attributes:
        turn: at most, in radians.
        shear: at most.
        stretch: of either side, at most.
        bend: standard deviation of the elastic field's knots, of the image's side.
    """

    turn: float
    shear: float
    stretch: float
    bend: float


PRINTED = Hand(turn=np.deg2rad(10), shear=0.12, stretch=0.12, bend=0.025)
WRITTEN = Hand(turn=np.deg2rad(15), shear=0.25, stretch=0.25, bend=0.045)
TO_WRITE = ("DejaVuSans.ttf", "DejaVuSansMono.ttf")  # a pen has no serifs


class Glyphs(ClassSource):
    """Letters of 15 scripts as classes, drawn in ink 255 on 0; nothing is downloaded or read from ``data.root``.

    Training, validation and test have different scripts: see ``metasgd.data.glyphs.letters``. Drawings of a letter
    differ by typeface (sans, serif, mono; bold, oblique), affine and elastic distortion and weight of stroke.
    Drawing d of a letter is a function of (seed, code point, d).

    Args:
        image_size: height and width in pixels, 12 to 128.
        drawings_per_class: drawings of each letter.
        seed: of the distortions.
        rotations: in training, a letter rotated by 90°, 180° and 270° is three more classes.
        handwriting: the share of drawings, from 0 to 1, that follow the middle lines of the letter's strokes with
            a pen and an unsteady hand.

    Raises:
        UserError: an option is out of range.

    Example:
        >>> Glyphs(image_size=20).form
        PictureForm(channels=1, height=20, width=20, fit='pad')
    """

    ink: Ink | None = "light"

    def __init__(
        self,
        image_size: int = 28,
        drawings_per_class: int = 20,
        seed: int = 0,
        rotations: bool = False,
        handwriting: float = 0.0,
    ) -> None:
        raise_problems(
            [
                f"{option} is {value}: use {low} to {high}"
                for option, value, low, high in (
                    ("image_size", image_size, 12, 128),
                    ("drawings_per_class", drawings_per_class, 2, 1000),
                    ("seed", seed, 0, 2**63),
                    ("handwriting", handwriting, 0, 1),
                )
                if not low <= value <= high
            ]
        )
        self.image_size = image_size
        self.drawings_per_class = drawings_per_class
        self.seed = seed
        self.rotations = rotations
        self.handwriting = handwriting

    @property
    def form(self) -> PictureForm:
        return PictureForm(channels=1, height=self.image_size, width=self.image_size, fit="pad")

    def prepare(self, root: Path, cache_dir: Path) -> None:
        self._letters(cache_dir)

    def pool(self, split: Split, root: Path, cache_dir: Path) -> ClassPool:
        everything = self._letters(cache_dir)
        scripts = [name.split("/")[0] for name in everything.names]
        own = everything.select(np.flatnonzero([SCRIPTS[script] == split for script in scripts]))
        return own.with_rotations() if self.rotations and split == "train" else own

    def contents(self, root: Path, cache_dir: Path) -> Contents:
        """By script; the fonts come with a package that may be another one day."""
        names = self._letters(cache_dir).names
        fonts = fonts_digest()
        found: dict[Split, dict[str, tuple[int, str]]] = {split: {} for split in SPLITS}
        for script in sorted({name.split("/")[0] for name in names}):
            own = [name for name in names if name.split("/")[0] == script]
            found[SCRIPTS[script]][script] = (len(own) * self.drawings_per_class, digest_of((DRAWING, fonts, own)))
        return found

    def _letters(self, cache_dir: Path) -> ClassPool:
        """The letters of all splits: one cache serves them all."""
        options = (self.image_size, self.drawings_per_class, self.seed, self.handwriting)
        made_by = (DRAWING, PIL.__version__, fonts_digest(), *options)
        return load_or_build(cache_dir, f"glyphs-{self.image_size}px-{digest_of(made_by)}", self._draw_all)

    def _draw_all(self) -> ClassPool:
        with Progress(console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("Finding letters", total=None)
            found = letters()
            progress.update(task, description="Drawing letters", total=len(found))
            images = np.empty(
                (len(found), self.drawings_per_class, 1, self.image_size, self.image_size), dtype=np.uint8
            )
            for c, letter in enumerate(found):
                images[c, :, 0] = draw(letter, self.drawings_per_class, self.seed, self.image_size, self.handwriting)
                progress.advance(task)
        names = tuple(letter.name for letter in found)
        groups = np.array([list(SCRIPTS).index(letter.script) for letter in found], dtype=np.int64)
        return ClassPool.of_equal_counts(images, names, groups)


def draw(letter: Letter, n_drawings: int, seed: int, image_size: int, handwriting: float = 0.0) -> NDArray[np.uint8]:
    """The first drawings of a letter, ``[n_drawings, image_size, image_size]``, ink 255 on 0."""
    masks = {typeface: full_size_mask_of(letter.code, typeface) for typeface in letter.typefaces}
    printed = {typeface: _blurred(mask) for typeface, mask in masks.items()}
    to_write = [typeface for typeface in TO_WRITE if typeface in masks] or list(masks)
    written = {typeface: _pen_lines(masks[typeface]) for typeface in to_write} if handwriting else {}
    drawings = []
    for d in range(n_drawings):
        stream = np.random.Generator(
            np.random.Philox(
                key=np.array([seed, letter.code], dtype=np.uint64),
                counter=np.array([0, 0, d, 0], dtype=np.uint64),
            )
        )
        by_hand = handwriting > 0 and stream.random() < handwriting
        fields, hand = (written, WRITTEN) if by_hand else (printed, PRINTED)
        typeface = list(fields)[stream.integers(len(fields))]
        drawings.append(_drawing(fields[typeface], hand, stream, image_size))
    return np.stack(drawings)


def _pen_lines(mask: Mask) -> Mask:
    """The middle lines of the strokes, falling off to nothing ``BLUR`` pixels away: a cut is a pen's width."""
    lines = np.pad(middle_lines(mask > 0.5), BLUR).astype(np.float32)
    if lines.sum() < FONT_SIZE / 2:  # dots and blots have no stroke to follow
        return _blurred(mask)
    near = np.arange(-BLUR, BLUR + 1)
    pens = 1 - np.hypot(near[:, None], near) / BLUR
    field = np.zeros_like(lines)
    for y, x in np.argwhere(pens > 0):
        field = np.maximum(field, np.roll(lines, (near[y], near[x]), axis=(0, 1)) * np.float32(pens[y, x]))
    return field


def _drawing(mask: Mask, hand: Hand, stream: np.random.Generator, image_size: int) -> NDArray[np.uint8]:
    side = image_size * SAMPLES
    cut = stream.uniform(*WEIGHT)
    field = _sample(mask, _places(mask.shape, hand, stream, side))
    # a soft edge, about a pixel wide; strokes too thin to reach the cut keep their strongest part
    cut = min(cut, 0.6 * float(field.max()))
    ink = np.clip((field - cut) * 4 + 0.5, 0, 1)
    pixels = ink.reshape(image_size, SAMPLES, image_size, SAMPLES).mean(axis=(1, 3))
    drawing: NDArray[np.uint8] = np.round(255 * pixels).astype(np.uint8)
    return drawing


def _places(shape: tuple[int, ...], hand: Hand, stream: np.random.Generator, side: int) -> NDArray[np.float64]:
    """Where on the mask, in its pixels from its centre, each sample of the image looks, ``[2, side, side]``."""
    turn, shear = stream.uniform(-hand.turn, hand.turn), stream.uniform(-hand.shear, hand.shear)
    stretch = np.exp(stream.uniform(-hand.stretch, hand.stretch, size=2))
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    forward = rotation @ np.array([[1, 0], [shear, 1]]) @ np.diag(stretch)  # (y, x) of the mask to the image
    ink = np.array(shape) - BLUR  # the mask has a rim twice as wide, which a low cut enters
    # half the ink's extent in the image, for the corners of its box
    extent = np.abs(forward) @ (ink / 2)
    scale = stream.uniform(*FILL) / 2 / extent.max()
    # the elastic field, smooth between its knots, moves no sample by more than its largest knot
    knots = stream.normal(scale=hand.bend, size=(2, KNOTS, KNOTS)).clip(-2 * hand.bend, 2 * hand.bend)
    smooth = _between_knots(side)
    bend = smooth @ knots @ smooth.T
    room = np.maximum(0.5 - MARGIN - 2 * hand.bend - scale * extent, 0)
    shift = stream.uniform(-SHIFT, SHIFT, size=2).clip(-room, room)
    place = (np.indices((side, side)) + 0.5) / side - 0.5 - shift[:, None, None] + bend
    backward: NDArray[np.float64] = np.linalg.inv(forward) / scale
    places: NDArray[np.float64] = np.einsum("ij,jyx->iyx", backward, place)
    return places


@functools.cache
def _between_knots(side: int) -> NDArray[np.float64]:
    """Weights of the knots at each sample, ``[side, KNOTS]``: cosine steps from each knot to the next."""
    at = np.linspace(0, KNOTS - 1, side)
    distance = np.abs(at[:, None] - np.arange(KNOTS)).clip(0, 1)
    return 0.5 + 0.5 * np.cos(np.pi * distance)


def _blurred(mask: Mask) -> Mask:
    """The mask with a rim of ``BLUR`` pixels, blurred twice by a box, so that its edges can be cut anywhere."""
    blurred = torch.from_numpy(np.pad(mask, BLUR)).double()[None]
    for _ in range(2):
        blurred = F.avg_pool2d(blurred, BLUR, stride=1, padding=BLUR // 2)
    return blurred[0].float().numpy()


def _sample(mask: Mask, places: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mask between its pixels, bilinear; nothing outside it."""
    height, width = mask.shape
    grid = torch.from_numpy(np.stack([2 * places[1] / width, 2 * places[0] / height], axis=-1))
    sampled = F.grid_sample(torch.from_numpy(mask).double()[None, None], grid[None], align_corners=False)
    return sampled[0, 0].numpy()
