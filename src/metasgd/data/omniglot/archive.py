"""Images read out of a zip file in place, trusting nothing that it says about itself."""

import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from metasgd.errors import UserError

# what zipfile and zlib raise on damaged input; RuntimeError is an encrypted member
DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
    OverflowError,
)
ADVICE = "Put an intact copy of the archive in its place"


@dataclass(frozen=True)
class Limits:
    """How much an archive may hold before it is refused: a few kilobytes can unpack to petabytes."""

    members: int = 100_000
    member_bytes: int = 2**20
    total_bytes: int = 2**28


def read_images(archive: Path, suffix: str = ".png", limits: Limits | None = None) -> Iterator[tuple[str, bytes]]:
    """Path within the archive and content of each member whose path ends in ``suffix``, sorted by path.

    Nothing is written: a path is but a name. Every member, of this suffix or not, must pass the checks before the first
    is read. Members of macOS's making (``__MACOSX/``, ``._*``) and other hidden ones are left out.

    Raises:
        UserError: not a zip file, truncated, a wrong checksum, encrypted, over a limit, or two members of
            one path; the message names the archive and the member.
    """
    limits = limits or Limits()
    with _damage_named(f"{archive}"):
        opened = zipfile.ZipFile(archive)
    with opened:
        members = opened.infolist()
        _check(archive, members, limits)
        wanted = [m for m in members if m.filename.endswith(suffix) and not _is_hidden(m.filename)]
        for member in sorted(wanted, key=lambda m: m.filename):
            with _damage_named(f"{archive}, member {member.filename}"):
                # reads no more than the declared size, then checks the CRC
                content = opened.read(member)
                if len(content) != member.file_size:
                    raise EOFError(f"{len(content)} bytes where {member.file_size} were declared")
            yield member.filename, content


def _check(archive: Path, members: list[zipfile.ZipInfo], limits: Limits) -> None:
    if len(members) > limits.members:
        raise UserError(f"{archive}: {len(members)} members, {limits.members} are allowed. {ADVICE}")
    seen: set[str] = set()
    total = 0
    for member in members:
        total += member.file_size
        problem = _problem(member, limits)
        if member.filename in seen:
            problem = "two members have this path"
        if total > limits.total_bytes:
            problem = f"unpacks, with those before it, to over {limits.total_bytes} bytes"
        if problem:
            raise UserError(f"{archive}, member {member.filename!r}: {problem}. {ADVICE}")
        seen.add(member.filename)


def _problem(member: zipfile.ZipInfo, limits: Limits) -> str | None:
    if member.file_size > limits.member_bytes:
        return f"unpacks to {member.file_size} bytes, {limits.member_bytes} are allowed"
    # the decompressors of the other methods do not bound what they allocate
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"compression method {member.compress_type}, only 'stored' and 'deflated' are read"
    return None


def _is_hidden(path: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in path.split("/"))


@contextmanager
def _damage_named(where: str) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise UserError(f"{where}: cannot be read ({error.strerror}). Allow reading it") from error
    except DAMAGE as error:
        raise UserError(f"{where}: damaged or incomplete ({error}). {ADVICE}") from error
