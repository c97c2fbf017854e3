"""The records of finished experiments: one compressed JSON file for each table.

A record holds what its numbers depend on: commands, seed, outer steps, time, machine, versions, protocol.
"""

import gzip
import json
from pathlib import Path
from typing import Any

Record = dict[str, Any]
FOLDER = Path(__file__).parent / "records"


def load() -> dict[str, Record]:
    """All records, by the name of the experiment."""
    found: dict[str, Record] = {}
    for path in sorted(FOLDER.glob("*.json.gz")):
        found |= _read(path)
    return found


def save(record: Record) -> None:
    """Add a record to its table's file, in place of an earlier one of its name."""
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{record['table']}.json.gz"
    content = {**(_read(path) if path.is_file() else {}), record["name"]: record}
    text = json.dumps(dict(sorted(content.items())), separators=(",", ":"))
    path.write_bytes(gzip.compress(text.encode(), mtime=0))  # without a time: the same records are the same bytes


def _read(path: Path) -> dict[str, Record]:
    records: dict[str, Record] = json.loads(gzip.decompress(path.read_bytes()))
    return records
