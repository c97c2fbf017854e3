"""What a picture file holds beside its pixels: the camera's orientation is read, the rest is left out.

Decoders read EXIF, text and colour profiles whole and fail on odd ones, while the pixels are intact.
"""

import struct

PNG_START, JPEG_START, WEBP_START, EXIF_START = b"\x89PNG\r\n\x1a\n", b"\xff\xd8", b"RIFF", b"Exif\0\0"
TIFF_STARTS = {b"II*\0": "<", b"MM\0*": ">"}
"""And the order of the bytes in a number."""
PNG_LEFT_OUT = (b"eXIf", b"tEXt", b"zTXt", b"iTXt", b"iCCP")
JPEG_LEFT_OUT = (*range(0xE1, 0xEE), 0xEF, 0xFE)  # the others of E0 to EF, JFIF and Adobe, say what the colours are
JPEG_PIXELS = 0xDA  # the marker from which on there is no metadata
ORIENTATION = 274
TIFF_OF_PIXELS = {*range(254, 267), 273, *range(275, 282), 284, 292, 293}
TIFF_OF_PIXELS |= {*range(317, 326), *range(338, 348), *range(512, 533)}
"""Tags that say how the pixels are stored."""
WHOLE_NUMBERS = {1: "B", 3: "H", 4: "I"}  # by the types of tags; an orientation should be a short
UPRIGHT = 1


def without_metadata(data: bytes) -> tuple[bytes, int]:
    """The bytes of a picture file without its metadata, and its orientation.

    Args:
        data: of a file of any format, intact or not.

    Returns:
        the bytes, still a file of that format, and the orientation as EXIF numbers it, 1 to 8; 1 is upright.
    """
    if data.startswith(PNG_START):
        return _png(data)
    if data.startswith(JPEG_START):
        return _jpeg(data)
    if data.startswith(WEBP_START):
        return data, _of_webp(data)
    return _tiff(data)


def orientation(exif: bytes) -> int:
    r"""The orientation in a block of EXIF, 1 to 8; where none can be read, 1. No other tag is looked at.

    Args:
        exif: a TIFF header and the directory that it points to, with or without ``Exif\0\0`` before them.
    """
    while exif.startswith(EXIF_START):
        exif = exif[len(EXIF_START) :]
    order, _, entries = _directory(exif)
    for entry in entries:
        tag, kind = struct.unpack_from(f"{order}HH", entry)
        if tag == ORIENTATION and kind in WHOLE_NUMBERS:
            (value,) = struct.unpack_from(order + WHOLE_NUMBERS[kind], entry, 8)
            return int(value) if 1 <= value <= 8 else UPRIGHT
    return UPRIGHT


def _directory(tiff: bytes) -> tuple[str, int, list[bytes]]:
    """The order of bytes, where the first directory begins, and its entries, as far as they are there."""
    order = TIFF_STARTS.get(tiff[:4], "<")
    if tiff[:4] not in TIFF_STARTS or len(tiff) < 8:
        return order, 0, []
    (start,) = struct.unpack_from(f"{order}I", tiff, 4)
    if start + 2 > len(tiff):
        return order, start, []
    (n,) = struct.unpack_from(f"{order}H", tiff, start)
    first = start + 2
    return order, start, [tiff[at : at + 12] for at in range(first, min(first + 12 * n, len(tiff) - 11), 12)]


def _png(data: bytes) -> tuple[bytes, int]:
    parts, found, at = [PNG_START], UPRIGHT, len(PNG_START)
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        kind = data[at + 4 : at + 8]
        if kind == b"eXIf":
            found = orientation(data[at + 8 : end - 4])
        if kind not in PNG_LEFT_OUT:
            parts.append(data[at:end])
        at = end
    return b"".join([*parts, data[at:]]), found


def _jpeg(data: bytes) -> tuple[bytes, int]:
    parts, found, at = [JPEG_START], None, len(JPEG_START)
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != JPEG_PIXELS:
        marker = data[at + 1]
        if marker == 0xFF:  # filling
            end = at + 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:  # these alone have no length
            end = at + 2
        else:
            end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        segment = data[at + 4 : end]
        if marker == 0xE1 and found is None and segment.startswith(EXIF_START):
            found = orientation(segment)
        if marker not in JPEG_LEFT_OUT:
            parts.append(data[at:end])
        at = end
    return b"".join([*parts, data[at:]]), found or UPRIGHT


def _of_webp(data: bytes) -> int:
    at = 12
    while at + 8 <= len(data):
        end = at + 8 + int.from_bytes(data[at + 4 : at + 8], "little")
        if data[at : at + 4] == b"EXIF":
            return orientation(data[at + 8 : end])
        at = end + end % 2
    return UPRIGHT


def _tiff(data: bytes) -> tuple[bytes, int]:
    order, start, entries = _directory(data)
    if not entries:
        return data, UPRIGHT
    parts = [entry for entry in entries if struct.unpack_from(f"{order}H", entry)[0] in TIFF_OF_PIXELS]
    next_directory = start + 2 + 12 * len(entries)
    shorter = b"".join([struct.pack(f"{order}H", len(parts)), *parts, data[next_directory : next_directory + 4]])
    return data[:start] + shorter + data[start + len(shorter) :], orientation(data)
