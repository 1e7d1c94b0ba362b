"""Files and folders that are there complete or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from retool_env.errors import UsageError
from retool_env.files import atomic, lock_folder


def test_the_old_file_is_there_until_the_new_one_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "above" / "f.txt"
    with atomic(target) as temporary:
        temporary.write_text("old")
        assert not target.exists()
    with atomic(target) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert list(target.parent.iterdir()) == [target]


def test_a_folder_takes_the_place_of_a_folder(tmp_path: Path) -> None:
    target = tmp_path / "checkpoint"
    for name in ("old", "new"):
        with atomic(target) as temporary:
            temporary.mkdir()
            (temporary / name).write_text(name)
    assert [path.name for path in target.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("folder", [False, True])
def test_an_error_leaves_what_was_there(folder: bool, tmp_path: Path) -> None:
    target = tmp_path / "f"
    target.write_text("old")

    def write() -> None:
        with atomic(target) as temporary:
            temporary.mkdir() if folder else temporary.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("folder", [False, True])
def test_what_a_killed_process_left_is_not_taken_over(folder: bool, tmp_path: Path) -> None:
    target = tmp_path / "f.txt"
    stale = tmp_path / f".f.txt.{os.getpid()}.tmp"
    stale.mkdir() if folder else stale.write_text("stale")
    with atomic(target) as temporary, temporary.open("a") as file:
        file.write("new")
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_a_place_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"file/f.txt' cannot be written \(Not a directory|File exists"):
        atomic(tmp_path / "file" / "f.txt").__enter__()


HOLD = """
import sys
from pathlib import Path
from retool_env.files import lock_folder
held = lock_folder(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_lock_is_given_back_when_its_process_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == b"held\n"
        with pytest.raises(UsageError, match="another process is writing there"):
            lock_folder(tmp_path)
        other.kill()
    lock_folder(tmp_path).close()


def test_a_file_system_without_locks_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def without_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")  # as network file systems have it

    monkeypatch.setattr(fcntl, "lockf", without_locks)
    lock_folder(tmp_path).close()
    assert "cannot be locked (No locks available)" in caplog.text
