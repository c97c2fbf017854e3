"""A seeded handful of tests/stress/fuzz.py, which feeds damaged and invented files to whatever reads files."""

import importlib.util
import random
import warnings

import pytest
from support.runs import ROOT

spec = importlib.util.spec_from_file_location("fuzz", ROOT / "tests" / "stress" / "fuzz.py")
fuzz = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fuzz)


@pytest.mark.parametrize(
    ("kind", "n"),
    [
        ("images", 150),
        ("exif", 150),
        ("classes", 40),
        ("archives", 100),
        ("checkpoints", 150),
        ("configs", 4),
        ("metadata", 12),
        ("class_paths", 40),
    ],
)
def test_whatever_a_file_holds_it_is_read_or_refused(kind, n, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["metasgd"])
    found = set()
    for i in range(n):
        with warnings.catch_warnings(action="ignore"):  # Pillow's and zipfile's, of damage that they live with
            said, content = fuzz.feed(kind, random.Random(f"test {kind} {i}"), tmp_path)
        assert said in ("read", "refused"), (content, said)
        found.add(said)
    assert found == {"configs": {"refused"}, "exif": {"read"}}.get(kind, {"read", "refused"})
