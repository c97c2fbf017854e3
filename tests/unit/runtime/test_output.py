import io
import sys

import pytest

from metasgd.runtime.output import losing_output_alone


class Full(io.RawIOBase):
    """A file on a disk that is full."""

    def __init__(self, error):
        self.error, self.asked = error, 0

    def writable(self):
        return True

    def write(self, data):
        self.asked += 1
        raise self.error


@losing_output_alone
def command(lines, code=0):
    for line in lines:
        print(line, flush=True)
    return code


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [(OSError(28, "No space left on device"), 2, "No space left on device"), (BrokenPipeError(32, "Broken"), 0, "")],
)
def test_a_command_carries_on_when_its_output_cannot_be_written(error, code, said, monkeypatch, capsys):
    full = Full(error)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BufferedWriter(full), encoding="utf-8"))
    before = sys.stdout
    done = []
    lines = (done.append(n) or str(n) for n in range(3))
    assert command(lines) == code
    assert done == [0, 1, 2]
    assert full.asked == 1
    assert sys.stdout is before
    assert said in capsys.readouterr().err


def test_a_command_that_fails_gives_its_own_code(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BufferedWriter(Full(OSError(28, "No space")))))
    assert command(["x"], code=1) == 1


def test_lost_messages_do_not_matter(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BufferedWriter(Full(OSError(28, "No space")))))
    wrapped = losing_output_alone(lambda: print("x", file=sys.stderr, flush=True) or 0)
    assert wrapped() == 0
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert wrapped() == 0


def test_characters_that_the_encoding_lacks_are_escaped(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert command(["θ ± 1"]) == 0
    assert written.getvalue() == rb"\u03b8 \xb1 1" + b"\n"
