import io
import random
import zipfile

import pytest
import torch
from support.runs import ROOT

from metasgd.errors import UserError
from metasgd.runs.checkpoint_file import read_checkpoint, sealed, written_here

CONTENT = {"state_dict": {"a": torch.arange(40.0), "b": torch.zeros(3, dtype=torch.int64)}, "global_step": 3}


def as_torch_writes(content):
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    return all(same(a[key], b[key]) for key in a) if isinstance(a, dict) else a == b


def test_a_sealed_file_is_torchs_and_read_as_it_was(tmp_path):
    path = tmp_path / "x.ckpt"
    path.write_bytes(sealed(as_torch_writes(CONTENT)))
    assert same(CONTENT, torch.load(path, weights_only=True))
    assert same(CONTENT, read_checkpoint(path))


def test_no_flipped_bit_of_a_sealed_file_passes(tmp_path):
    path, whole = tmp_path / "x.ckpt", sealed(as_torch_writes(CONTENT))
    assert whole[-75:-64] == b" signature:"
    chance, digested = random.Random(0), 8 * (len(whole) - 64)
    for bit in chance.sample(range(digested), 800) + list(range(digested - 8 * 100, digested)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="damaged, incomplete or no checkpoint"):
            read_checkpoint(path)


def test_a_damaged_signature_is_nobodys(tmp_path):
    path, whole = tmp_path / "x.ckpt", sealed(as_torch_writes(CONTENT))
    path.write_bytes(whole)
    assert written_here(path)
    for bit in range(8 * (len(whole) - 64), 8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        assert not written_here(path)


def test_no_flipped_bit_changes_what_is_read_of_an_unsealed_file(tmp_path):
    path, whole = tmp_path / "x.ckpt", as_torch_writes(CONTENT)
    chance, refused = random.Random(0), 0
    for bit in chance.sample(range(8 * len(whole)), 800):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            assert same(CONTENT, read_checkpoint(path)), bit
        except UserError:
            refused += 1
    assert refused > 400


@pytest.mark.parametrize("n", [1, 21, 60, 74, 75, 76, 150, 155, 500])
def test_a_cut_file_is_refused(tmp_path, n):
    path = tmp_path / "x.ckpt"
    path.write_bytes(sealed(as_torch_writes(CONTENT))[:-n])
    with pytest.raises(UserError, match="damaged, incomplete or no checkpoint"):
        read_checkpoint(path)


def test_an_archive_that_would_grow_when_it_is_read_is_refused(tmp_path):
    whole = zipfile.ZipFile(io.BytesIO(as_torch_writes({"state_dict": {"a": torch.zeros(10**6)}})))
    path = tmp_path / "x.ckpt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as smaller:
        for member in whole.infolist():
            smaller.writestr(member.filename, whole.read(member))
    assert path.stat().st_size < 10_000
    with pytest.raises(UserError, match="not stored one after the other"):
        read_checkpoint(path)


def test_the_checkpoints_of_the_project_are_read():
    for path in sorted(ROOT.glob("checkpoints/*/model.ckpt")):
        assert read_checkpoint(path)["metasgd_skipped"] == {"total": 0, "in_a_row": 0}
