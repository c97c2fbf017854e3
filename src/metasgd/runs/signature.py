"""Which checkpoints this user wrote: signed with a key of the user's own, they may name classes of any package.

A checkpoint's SHA-256 shows damage, and anyone can compute it. Its signature is the HMAC of that digest under 32 random
bytes in the user's own folder of settings, so that a stranger's file has none that fits.
"""

import hmac
import os
from contextlib import suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from tempfile import NamedTemporaryFile

_LENGTH = 32


def signature(digest: bytes) -> bytes:
    """``HMAC-SHA256(key, digest)`` in hexadecimal digits; empty where the user's folder cannot hold a key."""
    key = _key(_place())
    return hmac.new(key, digest, sha256).hexdigest().encode() if key else b""


def is_own(digest: bytes, signed: bytes) -> bool:
    """Whether a checkpoint of this digest was signed by this user."""
    return bool(signed) and hmac.compare_digest(signature(digest), signed)


def _place() -> Path | None:
    """Where the key is; None for a user without a home."""
    try:
        return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "metasgd" / "signing_key"
    except RuntimeError:
        return None


@cache
def _key(place: Path | None) -> bytes:
    """The user's key, made at the first call; empty where that is impossible."""
    if place is None:
        return b""
    try:
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            with NamedTemporaryFile(dir=place.parent) as new:  # which only the user can read
                new.write(os.urandom(_LENGTH))
                new.flush()
                with suppress(FileExistsError):
                    os.link(new.name, place)  # whole or not at all, and the first of several processes wins
        key = place.read_bytes()
    except OSError:  # such as a home that is read-only, or without hard links
        return b""
    return key if len(key) == _LENGTH else b""
