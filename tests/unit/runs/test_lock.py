import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from upath import UPath

from metasgd.errors import UserError
from metasgd.runs import lock as run_lock
from metasgd.runs.folders import Run, find_start
from metasgd.runs.lock import claim, locked, make_folder


@pytest.fixture
def tmp_path(tmp_path):
    return UPath(tmp_path)


def silent(said):
    raise AssertionError(said)


@pytest.fixture
def run(tmp_path):
    run = Run(tmp_path, "a", 3)
    run.checkpoint("last").parent.mkdir(parents=True)
    return run


def test_runs_that_start_in_one_moment_get_numbers_of_their_own(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "version_4").symlink_to("/nowhere")
    (tmp_path / "a" / "version_2").touch()
    with ThreadPoolExecutor(16) as threads:
        runs = list(threads.map(lambda _: claim(tmp_path, "a"), range(64)))
    assert sorted(run.version for run in runs) == list(range(5, 69))
    assert all(run.folder.is_dir() for run in runs)


def test_a_checkpoint_that_came_before_the_lock_is_resumed(run):
    import torch

    def own(run):
        torch.save({"state_dict": {}, "global_step": 12}, run.checkpoint("last"))

    assert find_start("resume", run.save_dir, "a", 3, fit=True, own=own).outer_step == 12


def test_a_file_system_without_locks_is_said(run, monkeypatch):
    def none(handle, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(run_lock.fcntl, "lockf", none)
    said = []
    with locked(run, said.append), locked(Run(UPath("memory://bucket"), "a", 0), said.append):
        pass
    assert said == [run_lock.UNLOCKED.format(folder) for folder in (run.folder, "memory://bucket/a/version_0")]


def test_folders_in_which_nothing_can_be_made_are_named(tmp_path, run, monkeypatch):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("/nowhere")
    for place in ("file", "link"):
        with pytest.raises(UserError, match=f"the run's folder .*{place}/a/version_0 cannot be made"):
            claim(tmp_path / place, "a")
    with pytest.raises(FileExistsError):
        make_folder(run)

    def raise_problems(*arguments):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(run_lock.os, "open", raise_problems)
    with (
        pytest.raises(UserError, match=r"version_3 cannot be written \(Permission denied\).*--init_from"),
        locked(run, silent),
    ):
        pass


def link_to_nothing(path: Path) -> None:
    path.symlink_to("/not/mounted/last.ckpt")


def link_to_itself(path: Path) -> None:
    path.symlink_to(path)


LOST = {
    "a link to what is not mounted": (link_to_nothing, "is a link to /not/mounted/last.ckpt, which is not there"),
    "a link to itself": (link_to_itself, "Too many levels of symbolic links"),
    "a FIFO": (os.mkfifo, "it is no file"),
    "a folder": (os.mkdir, "it is no file"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "it is no file"),
}


@pytest.mark.parametrize("case", LOST)
@pytest.mark.parametrize("ckpt_path", ["resume", "last"])
def test_a_last_checkpoint_that_cannot_be_read_is_not_taken_for_absent(case, ckpt_path, run):
    make, said = LOST[case]
    Run(run.save_dir, "a", 2).checkpoint("last").parent.mkdir(parents=True)
    Run(run.save_dir, "a", 2).checkpoint("last").touch()  # an older one is not what was meant
    make(run.checkpoint("last"))
    with pytest.raises(UserError) as caught:
        find_start(ckpt_path, run.save_dir, "a", 3 if ckpt_path == "resume" else None, fit=True)
    assert f"{run.checkpoint('last')} cannot be read" in str(caught.value)
    assert said in str(caught.value)


@pytest.mark.parametrize("part", ["runs", "runs/a", "runs/a/version_3", "runs/a/version_3/checkpoints"])
def test_nor_is_one_on_a_disk_that_is_not_mounted(part, tmp_path):
    place = tmp_path / part
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to("/not/mounted")
    with pytest.raises(UserError, match=f"{part} is a link to /not/mounted, which is not there"):
        find_start("resume", tmp_path / "runs", "a", 3, fit=True)


def test_nor_is_one_that_this_user_may_not_read(run, monkeypatch):
    run.checkpoint("last").touch()
    monkeypatch.setattr("metasgd.runs.storage.os.access", lambda path, mode: False)  # these tests may be root's
    with pytest.raises(UserError, match="you may not read it"):
        find_start("resume", run.save_dir, "a", 3, fit=True)


def test_what_another_user_keeps_to_himself_is_said_so(run, monkeypatch):
    def refuse(self, *arguments, **options):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "is_file", refuse)  # these tests may be root's
    with pytest.raises(UserError, match=r"--ckpt_path is .*best.ckpt, which cannot be looked at \(Permission denied\)"):
        find_start(str(run.checkpoint("best")), run.save_dir, "a", None, fit=False)
