import os
import socket

import pytest

from metasgd.data.regular_file import read_regular
from metasgd.errors import UserError


def test_a_file_is_read_up_to_the_limit(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("f")
    assert read_regular(tmp_path / "f", 3) == read_regular(tmp_path / "link", 3) == b"abc"
    with pytest.raises(UserError, match="f: larger than 0 MiB"):
        read_regular(tmp_path / "f", 2)


def test_what_has_no_end_or_no_writer_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "zero").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        for name in ("fifo", "zero", "socket"):
            with pytest.raises(UserError, match=f"{name}: a FIFO, a device or a socket, not a file"):
                read_regular(tmp_path / name, 100)


def test_a_sparse_file_of_30_gb_is_not_read(tmp_path):
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(30 * 2**30)
    with pytest.raises(UserError, match="sparse: larger than 256 MiB"):
        read_regular(tmp_path / "sparse", 2**28)


def test_what_cannot_be_read_stays_an_error_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "none", 1)
    with pytest.raises(IsADirectoryError):
        read_regular(tmp_path, 2**20)
