"""Which letters there are to draw: those in the fonts that matplotlib ships, each look counted once."""

import functools
import hashlib
import unicodedata
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.ft2font import FT2Font
from numpy.typing import NDArray
from PIL import ImageFont

from metasgd.data.rng import Split

SCRIPTS: dict[str, Split] = {
    "LATIN": "train",
    "GREEK": "train",
    "CYRILLIC": "train",
    "COPTIC": "train",
    "ARMENIAN": "val",
    "HEBREW": "val",
    "NKO": "val",
    "CANADIAN": "test",
    "ARABIC": "test",
    "GEORGIAN": "test",
    "TIFINAGH": "test",
    "LISU": "test",
    "LAO": "test",
    "OLD": "test",  # Old Italic
    "OGHAM": "test",
}
"""The scripts, by the first word of their letters' Unicode names, and the split of each.

Latin, Greek, Cyrillic and Coptic share ancestors and looks, so they are on one side. Mathematical letters are
other typefaces of Latin and Greek ones, and are left out.
"""
TYPEFACES = tuple(
    f"DejaVu{family}{style}.ttf"
    for family, styles in (
        ("Sans", ("", "-Bold", "-Oblique", "-BoldOblique")),
        ("SansMono", ("", "-Bold", "-Oblique", "-BoldOblique")),
        ("Serif", ("", "-Bold", "-Italic", "-BoldItalic")),
    )
    for style in styles
)
FONT_SIZE = 64  # pixels; letters are reduced from it
LOOK_SIDE = 20  # pixels of a normalised look
SAME_LOOK = 0.15  # squared difference as a share of the ink; a smaller one is none to the eye at 28 pixels

Mask = NDArray[np.float32]


@dataclass(frozen=True)
class Letter:
    """One class of drawings.

    Attributes:
        code: the lowest code point with this look.
        script: the first word of its Unicode name.
        typefaces: the files that have it, by name.
    """

    code: int
    script: str
    typefaces: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.script}/U+{self.code:04X} {unicodedata.name(chr(self.code))}"


def font_folder() -> Path:
    """Where matplotlib has its typefaces."""
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf"


def fonts_digest() -> str:
    """A hash of all the typefaces: another release of the fonts is another data set."""
    digest = hashlib.sha256()
    for typeface in TYPEFACES:
        digest.update((font_folder() / typeface).read_bytes())
    return digest.hexdigest()


@functools.cache
def _font(typeface: str, size: int) -> ImageFont.FreeTypeFont:
    path = str(font_folder() / typeface)
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)


def mask_of(code: int, typeface: str, size: int = FONT_SIZE) -> Mask:
    """A letter's ink from 0 to 1, cropped to it; of no size if it is blank."""
    mask = _font(typeface, size).getmask(chr(code), mode="L")
    ink = (np.frombuffer(bytes(mask), np.uint8).reshape(mask.size[::-1]) / 255).astype(np.float32)
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] if len(rows) else ink[:0, :0]


def full_size_mask_of(code: int, typeface: str) -> Mask:
    """A letter's ink, its longer side near ``FONT_SIZE`` pixels however small the letter is in its line."""
    longer = max(mask_of(code, typeface).shape)
    return mask_of(code, typeface, size=round(FONT_SIZE * FONT_SIZE / longer))


def letters() -> list[Letter]:
    """Every letter of ``SCRIPTS`` with a look of its own, ordered by split (train first) and code point.

    Drawings vary in size and place, so letters whose shapes agree up to these in the typefaces that both have
    (Latin ``A`` and Greek ``Α``, a letter and its superscript) are one class, which belongs to the first of
    their splits.
    """
    order: tuple[Split, ...] = ("train", "val", "test")
    found = sorted(_present(), key=lambda letter: (order.index(SCRIPTS[letter.script]), letter.code))
    apart, shared = np.zeros((2, len(found), len(found)), dtype=np.float32)
    blank = np.zeros(len(found), dtype=bool)
    for typeface in TYPEFACES:
        own = np.array([i for i, letter in enumerate(found) if typeface in letter.typefaces])
        masks = [mask_of(found[i].code, typeface) for i in own]
        blank[own] |= [mask.size == 0 for mask in masks]
        looks = np.array([_look(mask) for mask in masks])
        apart[np.ix_(own, own)] += _distances(looks)
        shared[np.ix_(own, own)] += 1
    alike = apart < SAME_LOOK * shared
    first: list[int] = []
    for i in np.flatnonzero(~blank).tolist():
        if not alike[i, first].any():
            first.append(i)
    return [found[i] for i in first]


def _present() -> list[Letter]:
    typefaces: dict[int, list[str]] = defaultdict(list)
    for typeface in TYPEFACES:
        for code, glyph in FT2Font(str(font_folder() / typeface)).get_charmap().items():
            # glyph 0 is the box that stands for a missing one
            if glyph != 0 and unicodedata.category(chr(code)).startswith("L"):
                typefaces[code].append(typeface)
    scripts = {code: unicodedata.name(chr(code)).split()[0] for code in typefaces}
    return [Letter(code, scripts[code], tuple(t)) for code, t in typefaces.items() if scripts[code] in SCRIPTS]


def _look(mask: Mask) -> NDArray[np.float32]:
    """A shape freed of size and place, flat: its longer side fills the square, the shorter is centred."""
    height, width = mask.shape
    if not mask.size:
        return np.zeros(LOOK_SIDE**2, dtype=np.float32)
    longer = max(height, width)
    square = np.zeros((longer, longer), dtype=np.float32)
    top, left = (longer - height) // 2, (longer - width) // 2
    square[top : top + height, left : left + width] = mask
    overlap = _overlap(longer)
    look: Mask = (overlap @ square @ overlap.T).ravel()
    return look


@functools.cache
def _overlap(side: int) -> NDArray[np.float32]:
    """Means over areas, ``[LOOK_SIDE, side]``: the overlaps between a square's pixels and its look's."""
    edges, pixels = np.linspace(0, side, LOOK_SIDE + 1), np.arange(side)
    overlap = np.clip(np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels), 0, None)
    means: NDArray[np.float32] = (overlap / (side / LOOK_SIDE)).astype(np.float32)
    return means


def _distances(looks: NDArray[np.float32]) -> NDArray[np.float32]:
    """Between each two rows: the squared difference as a share of the larger one's squares, ``[C, C]``."""
    squares = (looks**2).sum(axis=1)
    difference = squares[:, None] + squares - 2 * looks @ looks.T
    share: NDArray[np.float32] = difference / np.maximum(np.maximum(squares[:, None], squares), 1e-9)
    return share
