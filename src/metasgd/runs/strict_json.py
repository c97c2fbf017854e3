"""Results as strict JSON, which has no NaN and no infinity."""

import json
import math
from typing import Any


def as_bytes(content: Any) -> bytes:
    """A file's content; what is no finite number becomes null."""
    return (json.dumps(_finite(content), indent=2, allow_nan=False) + "\n").encode()


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
