"""Picture files to pixels of a given size and number of channels. Shape letters: C channels."""

import io
import struct
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from rich.console import Console
from rich.progress import Progress

from metasgd.data.images.files import SUFFIXES, printable, raise_some
from metasgd.data.images.metadata import without_metadata
from metasgd.data.regular_file import read_regular
from metasgd.errors import UserError

Fit = Literal["crop", "pad", "stretch"]
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
MOST_PIXELS, MOST_BYTES = 2**26, 2**28
DECODERS = 8  # threads; Pillow decodes outside Python's lock
AHEAD = 256  # pictures decoded before they are asked for: what bounds the memory
RESAMPLING = Image.Resampling.LANCZOS
DECODING = (
    2  # a number to raise when other pixels come of the same files, so that caches of the old ones are left aside
)
TO_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By the orientation of EXIF."""
TOO_MANY_PIXELS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
# what Pillow raises on damaged files, from whichever of its parsers, or warns of; SyntaxError is a broken PNG's
DAMAGE = (
    *(OSError, SyntaxError, ValueError, TypeError, EOFError, LookupError, ArithmeticError, AttributeError, Warning),
    *(AssertionError, struct.error, zlib.error),
)


@dataclass(frozen=True)
class PictureForm:
    """What a picture is converted to.

    Attributes:
        channels: 1 for grey, 3 for colour.
        height: in pixels.
        width: in pixels.
        fit: how another aspect ratio is met: ``crop`` cuts the longer sides off, ``pad`` adds a margin of the
            colour of the picture's rim, ``stretch`` distorts.
    """

    channels: int
    height: int
    width: int
    fit: Fit = "crop"


def read_picture(path: Path, form: PictureForm) -> NDArray[np.uint8]:
    """A picture, uint8 ``[C, height, width]``: upright as its camera says, transparency on white, antialiased.

    Its format is what its content says, whatever its name ends in.

    Raises:
        UserError: it cannot be read, is damaged, too large, or of a kind that is not read; the message names it.
    """
    try:
        data = read_regular(path, MOST_BYTES)
    except OSError as error:
        raise UserError(f"{printable(path)}: cannot be read ({error.strerror or error}). Allow reading it") from error
    pixels, orientation = without_metadata(data)
    try:
        with Image.open(io.BytesIO(pixels), formats=FORMATS) as image:
            _validate_fit(image, path)
            if image.format == "PNG":
                image.verify()  # decoding does not look at the checksums
        with Image.open(io.BytesIO(pixels), formats=FORMATS) as image:
            upright = image.transpose(TO_UPRIGHT[orientation]) if orientation in TO_UPRIGHT else image
            picture = _fitted(_flat(upright, "L" if form.channels == 1 else "RGB", path), form)
    except UserError:  # of an intact one
        raise
    except UnidentifiedImageError as error:  # its message has nothing to tell
        if path.suffix.lower() not in SUFFIXES:
            raise UserError(
                f"{path}: not of a format that is read ({', '.join(SUFFIXES)}). Save it as PNG or JPEG"
            ) from error
        begins = f"it begins with {data[:16]!r}" if data else "it is empty"
        raise UserError(
            f"{path}: not an intact picture of a format that is read ({begins}). Remove it, or put an intact JPEG, PNG,"
            " BMP, GIF, WebP, TIFF or PNM in its place"
        ) from error
    except TOO_MANY_PIXELS as error:
        raise UserError(f"{path}: {error}. Save a smaller one") from error
    except DAMAGE as error:
        raise UserError(
            f"{path}: not an intact picture ({error}). Remove it, or put an intact copy in its place"
        ) from error
    decoded = np.asarray(picture)
    return np.ascontiguousarray(decoded[None] if form.channels == 1 else decoded.transpose(2, 0, 1))


def read_pictures(paths: Sequence[Path], form: PictureForm) -> Iterator[NDArray[np.uint8]]:
    """Every picture in turn, each as ``read_picture`` gives it, decoded ahead by several threads.

    Raises:
        UserError: some are damaged; after the last one, so that the message names them together.
    """
    problems: list[str] = []
    waiting: deque[Future[NDArray[np.uint8]]] = deque()
    with ThreadPoolExecutor(DECODERS) as threads, Progress(console=Console(stderr=True), transient=True) as progress:
        coming = iter(paths)
        for _ in progress.track(range(len(paths)), description="Decoding pictures"):
            while len(waiting) < AHEAD and (path := next(coming, None)) is not None:
                waiting.append(threads.submit(read_picture, path, form))
            try:
                image = waiting.popleft().result()
            except UserError as error:
                problems += error.problems
            else:
                yield image
    raise_some(problems)


def _validate_fit(image: Image.Image, path: Path) -> None:
    """Refuse what is known from the head of a file: too many pixels, or several frames."""
    if image.width * image.height > MOST_PIXELS:
        raise UserError(
            f"{path}: {image.width}×{image.height} pixels, and at most {MOST_PIXELS} are read. Save a smaller one"
        )
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # a camera's JPEG with a preview behind it
        raise UserError(f"{path}: it has {frames} frames, and which of them is meant is unknown. Save one alone")


def _flat(image: Image.Image, mode: str, path: Path) -> Image.Image:
    """The image opaque, in 8 bits per channel."""
    if image.mode == "F":
        raise UserError(
            f"{path}: its pixels are floating-point numbers, whose range is unknown. Save it in 8 or 16 bits"
        )
    if image.mode == "LAB":
        raise UserError(f"{path}: its colours are in the space LAB, which is not read. Save it in RGB")
    if image.mode.startswith("I"):
        image = _in_8_bits(image, path)
    if image.has_transparency_data:
        with_alpha = image.convert("RGBA")
        image = Image.new("RGBA", with_alpha.size, "white")
        image.alpha_composite(with_alpha)
    return image.convert(mode)


def _in_8_bits(image: Image.Image, path: Path) -> Image.Image:
    """A grey image of 16 bits scaled, which Pillow would cut off instead, with its transparency."""
    depth = np.asarray(image).astype(np.int32)
    if depth.min() < 0 or depth.max() > 65535:
        raise UserError(
            f"{path}: its pixels go from {depth.min()} to {depth.max()}, in a range that is unknown. Save it in 8 or 16"
            " bits"
        )
    grey = Image.fromarray(((depth + 128) // 257).astype(np.uint8))
    transparent = image.info.get("transparency")
    if transparent is not None:
        grey.putalpha(Image.fromarray(np.where(depth == transparent, 0, 255).astype(np.uint8)))
    return grey


def _fitted(image: Image.Image, form: PictureForm) -> Image.Image:
    size = form.width, form.height
    if image.size == size:
        return image
    if form.fit == "stretch":
        return image.resize(size, RESAMPLING)
    if form.fit == "crop":
        return ImageOps.fit(image, size, RESAMPLING)
    return ImageOps.pad(image, size, RESAMPLING, color=_rim_colour(image))


def _rim_colour(image: Image.Image) -> tuple[int, ...]:
    pixels = np.asarray(image)
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    colour = np.median(np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]), axis=0)
    return tuple(int(c) for c in colour)
