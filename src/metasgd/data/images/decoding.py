"""Picture files to pixels of a given size and number of channels. Shape letters: C channels."""

import io
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

from metasgd.data.images.files import SUFFIXES, shortened
from metasgd.errors import UserError, raise_problems

Fit = Literal["crop", "pad", "stretch"]
MOST_PIXELS = 2**26
DECODERS = 8  # threads; Pillow decodes outside Python's lock
AHEAD = 256  # pictures decoded before they are asked for: what bounds the memory
RESAMPLING = Image.Resampling.LANCZOS
# what Pillow raises on damaged files, from whichever of its parsers; SyntaxError is a broken PNG's
DAMAGE = (OSError, SyntaxError, ValueError, TypeError, EOFError, IndexError, Image.DecompressionBombError)


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
    """A picture, uint8 ``[C, height, width]``: turned as its camera says, transparency on white, antialiased.

    Raises:
        UserError: it cannot be read, is damaged, too large, or of a kind that is not read; the message names it.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}). Allow reading it") from error
    try:
        with Image.open(io.BytesIO(data)) as image:
            _validate_fit(image, path)
            if image.format == "PNG":
                image.verify()  # decoding does not look at the checksums
        with Image.open(io.BytesIO(data)) as image:
            picture = _fitted(_flat(image, "L" if form.channels == 1 else "RGB", path), form)
    except UserError:  # of an intact one
        raise
    except UnidentifiedImageError as error:  # its message has nothing to tell
        if path.suffix.lower() not in SUFFIXES:
            raise UserError(
                f"{path}: not of a format that is read ({', '.join(SUFFIXES)}). Save it as PNG or JPEG"
            ) from error
        raise UserError(f"{path}: not an intact picture. Remove it, or put an intact copy in its place") from error
    except DAMAGE as error:
        raise UserError(
            f"{path}: not an intact picture ({error}). Remove it, or put an intact copy in its place"
        ) from error
    pixels = np.asarray(picture)
    return np.ascontiguousarray(pixels[None] if form.channels == 1 else pixels.transpose(2, 0, 1))


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
    raise_problems(shortened(problems))


def _validate_fit(image: Image.Image, path: Path) -> None:
    """Refuse what is told by the head of a file: too many pixels, another format than its name's, several frames."""
    if image.width * image.height > MOST_PIXELS:
        raise UserError(
            f"{path}: {image.width}×{image.height} pixels, and at most {MOST_PIXELS} are read. Save a smaller one"
        )
    # a camera's MPO is a JPEG with a preview behind it
    form = "JPEG" if image.format == "MPO" else image.format
    named = Image.registered_extensions().get(path.suffix.lower(), "file of no known format")
    if form != named:
        raise UserError(f"{path}: a {form} by its content, a {named} by its name: rename it")
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":
        raise UserError(f"{path}: it has {frames} frames, and which of them is meant cannot be told. Save one alone")


def _flat(image: Image.Image, mode: str, path: Path) -> Image.Image:
    """The image upright and opaque, in 8 bits per channel."""
    upright = ImageOps.exif_transpose(image)
    if upright.mode == "F":
        raise UserError(
            f"{path}: its pixels are floating-point numbers, whose range is unknown. Save it in 8 or 16 bits"
        )
    if upright.mode.startswith("I"):  # 16 bits, which Pillow would cut off instead of scaling
        depth = np.asarray(upright).astype(np.float64)
        if depth.min() < 0 or depth.max() > 65535:
            raise UserError(
                f"{path}: its pixels go from {depth.min():.0f} to {depth.max():.0f}, in a range that is unknown. Save"
                " it in 8 or 16 bits"
            )
        upright = Image.fromarray(np.round(depth / 257).clip(0, 255).astype(np.uint8))
    if upright.has_transparency_data:
        with_alpha = upright.convert("RGBA")
        upright = Image.new("RGBA", with_alpha.size, "white")
        upright.alpha_composite(with_alpha)
    return upright.convert(mode)


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
