"""Whatever a file says beside its pixels, these are read, upright as tag 0x112 of its EXIF says."""

import io
import random
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from metasgd.data.images.decoding import TO_UPRIGHT, PictureForm, read_picture
from metasgd.data.images.metadata import PNG_START, orientation, without_metadata

PIXELS = (np.arange(64, dtype=np.uint8).reshape(8, 8) * 3)[:, :7]
UPRIGHT = {
    1: PIXELS,
    2: PIXELS[:, ::-1],
    3: PIXELS[::-1, ::-1],
    4: PIXELS[::-1],
    5: PIXELS.T,
    6: np.rot90(PIXELS, -1),
    7: PIXELS[::-1, ::-1].T,
    8: np.rot90(PIXELS),
}
"""As the EXIF standard has it: what a viewer shows."""
SAVED = {
    "JPEG": {"quality": 100},
    "PNG": {},
    "WEBP": {"lossless": True},
    "TIFF": {},
}
ODD = (0x100, 0x10E, 0x11A, 0x128, 0x132, 0x8769, 0x8825, 0xA005, 0x927C, 0x9286)


def block(order: str, entries: list[tuple[int, int, int, bytes]], tail: bytes = b"") -> bytes:
    """EXIF of a directory of (tag, type, count, value)."""
    start = b"II*\0" if order == "<" else b"MM\0*"
    body = b"".join(struct.pack(f"{order}HHI", *entry[:3]) + entry[3] for entry in entries)
    return start + struct.pack(f"{order}IH", 8, len(entries)) + body + bytes(4) + tail


def shown(path, data: bytes) -> np.ndarray:
    path.write_bytes(data)
    return read_picture(path, PictureForm(1, *PIXELS.shape))[0]


def matching(path, data: bytes) -> list[int]:
    """The orientations that a file, whose pixels as they lie are ``PIXELS``, is shown in."""
    path.write_bytes(data)
    square = read_picture(path, PictureForm(1, 56, 56, "stretch"))[0].astype(int)
    wanted = {
        o: np.asarray(Image.fromarray(np.ascontiguousarray(p)).resize((56, 56), Image.Resampling.LANCZOS)).astype(int)
        for o, p in UPRIGHT.items()
    }
    return [o for o, p in wanted.items() if np.abs(p - square).max() <= 8]


def saved(form: str, exif: bytes = b"") -> bytes:
    file = io.BytesIO()
    options = {"exif": b"Exif\0\0" + exif} if exif and form != "TIFF" else {}
    Image.fromarray(PIXELS).convert("RGB").save(file, form, **SAVED[form], **options)
    return file.getvalue()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_each_orientation_is_shown_as_the_standard_says(tmp_path, form, order):
    for o in UPRIGHT:
        exif = block(order, [(0x112, 3, 1, struct.pack(f"{order}HH", o, 0))])
        assert orientation(exif) == o
        assert matching(tmp_path / "x.jpg", saved(form, exif)) == [o]
    assert sorted(TO_UPRIGHT) == [o for o in UPRIGHT if o != 1]


def test_the_orientation_of_a_tiff_is_its_own_tag(tmp_path):
    for o in UPRIGHT:
        file = io.BytesIO()
        Image.fromarray(PIXELS).save(file, "TIFF", tiffinfo={0x112: o, 0x10E: "described"})
        assert matching(tmp_path / "x.tif", file.getvalue()) == [o]


@pytest.mark.parametrize(
    ("exif", "expected"),
    [
        (b"", 1),
        (b"II*\0", 1),
        (b"no EXIF at all", 1),
        (block("<", [(0x112, 3, 1, b"\6\0\0\0")])[:20], 1),  # cut within the entry
        (block("<", [(0x112, 3, 1, b"\6\0\0\0")])[:22], 6),  # cut right after it
        (b"Exif\0\0Exif\0\0" + block("<", [(0x112, 3, 1, b"\6\0\0\0")]), 6),
        (block("<", [(0x112, 3, 1, b"\0\0\0\0")]), 1),
        (block("<", [(0x112, 3, 1, b"\x09\0\0\0")]), 1),
        (block("<", [(0x112, 4, 1, b"\x08\0\0\0")]), 8),  # a long
        (block(">", [(0x112, 1, 1, b"\x03\0\0\0")]), 3),  # a byte
        (block("<", [(0x112, 2, 2, b"6\0\0\0")]), 1),  # a word
        (block("<", [(0x112, 5, 1, b"\6\0\0\0")]), 1),  # a fraction
        (b"II*\0" + struct.pack("<I", 2**32 - 1), 1),
    ],
)
def test_only_a_whole_number_from_1_to_8_is_an_orientation(exif, expected):
    assert orientation(exif) == expected


def test_no_other_tag_of_any_kind_keeps_the_pixels_from_being_read(tmp_path):
    """Types, counts and offsets at random; the orientation is what its own entry says."""
    chance = random.Random(0)
    for _ in range(150):
        order, o = chance.choice("<>"), chance.randint(1, 8)
        odd = [
            (tag, chance.randrange(16), chance.choice([0, 1, 5, 2**16, 2**32 - 1]), chance.randbytes(4))
            for tag in chance.sample(ODD, 3)
        ]
        own = (0x112, 3, 1, struct.pack(f"{order}HH", o, 0))
        exif = block(order, sorted([*odd, own]), chance.randbytes(30))
        form = chance.choice(["JPEG", "PNG", "WEBP"])
        assert matching(tmp_path / "x.jpg", saved(form, exif)) == [o]


def test_random_bytes_for_exif_leave_the_pixels_as_they_are(tmp_path):
    chance = random.Random(1)
    for _ in range(100):
        assert len(matching(tmp_path / "x.jpg", saved("JPEG", chance.randbytes(chance.randint(1, 200))))) == 1


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize("place", ["before the pixels", "after them"])
@pytest.mark.parametrize(
    "text",
    [
        chunk(b"tEXt", b"workflow\0" + b"x" * 2**21),
        chunk(b"zTXt", b"workflow\0\0" + zlib.compress(bytes(2**23))),
        chunk(b"iTXt", b"workflow\0\1\0\0\0" + zlib.compress(b"\xff" * 2**22)),
        chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(2**22))),
        chunk(b"tEXt", b"workflow\0" + b"x" * 2**17) * 100,
    ],
)
def test_long_text_in_a_png_is_passed_over(tmp_path, text, place):
    png = saved("PNG")
    at = len(PNG_START) + 25 if place == "before the pixels" else len(png) - 12
    assert np.array_equal(shown(tmp_path / "x.png", png[:at] + text + png[at:]), PIXELS)


def test_what_is_left_of_a_file_has_all_its_pixels_and_nothing_else():
    exif = block("<", [(0x112, 3, 1, b"\6\0\0\0"), (0x10E, 2, 4, b"abc\0")])
    for form in ("JPEG", "PNG"):
        assert without_metadata(saved(form, exif)) == (saved(form), 6)
    for data in (b"", PNG_START, b"\xff\xd8", b"\xff\xd8\xff", b"RIFF", b"GIF89a"):
        assert without_metadata(data) == (data, 1)
