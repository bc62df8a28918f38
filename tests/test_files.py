"""Files appear whole or not at all."""

import errno
import json
import os
import subprocess
import sys
import zipfile

import pytest

from tests.helpers import ROOT
from unet import files
from unet.errors import RunError
from unet.files import locked, remove_unfinished, replacing, temporary_folder, write_json, write_text

pytestmark = pytest.mark.backend_free


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail():
        with replacing(path) as temporary:
            temporary.write_text("half of the ne")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_the_temporary_file_lies_beside_with_the_same_ending(tmp_path):
    with replacing(tmp_path / "deep" / "model.keras") as temporary:
        assert temporary.parent == tmp_path / "deep"
        assert temporary.suffix == ".keras"
        temporary.write_text("x")
        assert not (tmp_path / "deep" / "model.keras").exists()
    assert (tmp_path / "deep" / "model.keras").read_text() == "x"


def test_files_are_readable_by_others_as_usual(tmp_path):
    write_text(tmp_path / "a", "x")
    (tmp_path / "b").write_text("x")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_json_has_no_nan(tmp_path):
    write_json(tmp_path / "a.json", {"x": [1.5, float("nan")], "y": (2, {"z": float("nan")})})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": [1.5, None], "y": [2, {"z": None}]}


# === Faults of the machine ===


def full(*arguments):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_one_message_and_the_old_file_stays(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError) as caught:
        write_text(path, "new")
    assert str(caught.value) == (
        f"{path}: cannot be written: No space left on device; free some space, then run the same command again"
    )
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_file_name_may_have_the_greatest_length(tmp_path):
    write_text(tmp_path / ("x" * 251 + ".txt"), "x")
    assert os.listdir(tmp_path) == ["x" * 251 + ".txt"]


KILLED = """
import os, signal, sys
from pathlib import Path
from unet.files import replacing, temporary_folder
with temporary_folder(Path(sys.argv[1])) as folder, replacing(Path(sys.argv[1]) / "a.txt") as file:
    (folder / "part").write_text("x")
    file.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX locks")
def test_what_a_killed_process_left_is_deleted_and_what_is_being_written_is_not(tmp_path):
    (tmp_path / ".hidden").touch()
    subprocess.run([sys.executable, "-c", KILLED, tmp_path], cwd=ROOT, check=False)
    assert len(os.listdir(tmp_path)) == 3
    with replacing(tmp_path / "b.txt") as file, temporary_folder(tmp_path) as folder:
        file.write_text("b")
        remove_unfinished(tmp_path)
        assert sorted(os.listdir(tmp_path)) == sorted([".hidden", file.name, folder.name])
    assert sorted(os.listdir(tmp_path)) == [".hidden", "b.txt"]


def test_a_leftover_that_is_removed_before_it_is_locked_is_made_again(tmp_path, monkeypatch):
    made = []
    create = files._new_file

    def raced(path):
        made.append(create(path))
        if len(made) == 1:
            remove_unfinished(tmp_path)  # as another process may do at this moment
        return made[-1]

    monkeypatch.setattr(files, "_new_file", raced)
    write_text(tmp_path / "a.txt", "x")
    assert len(made) == 2
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("year", [1970, 2110])
def test_a_wrong_clock_is_reported_when_an_archive_is_written(tmp_path, monkeypatch, year):
    def save():
        with replacing(tmp_path / "a.zip") as temporary, zipfile.ZipFile(temporary, "w") as archive:
            archive.writestr("x", "y")

    with monkeypatch.context() as patched:
        patched.setattr("time.time", lambda: (year - 1970 + 0.5) * 365.2425 * 86400)
        with pytest.raises(RunError, match=rf"a\.zip: cannot be written: the system clock says that it is {year}; set"):
            save()
    assert os.listdir(tmp_path) == []
    save()
    assert os.listdir(tmp_path) == ["a.zip"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX locks")
@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_used_without_them(tmp_path, monkeypatch, caplog, code):
    def refuse(*arguments):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", refuse)
    for wait in (True, False):
        with locked(tmp_path / ".lock", wait), temporary_folder(tmp_path) as folder:
            write_text(tmp_path / "a.txt", "x")
            remove_unfinished(tmp_path)  # cannot tell whether another process uses the folder
            assert folder.is_dir()
    assert sorted(os.listdir(tmp_path)) == [".lock", "a.txt"]
    (message,) = caplog.messages
    assert message.startswith(f"{tmp_path}: files cannot be locked there ({os.strerror(code)})")


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX locks")
def test_a_lock_that_another_process_holds_is_not_mistaken_for_a_file_system_without_locks(tmp_path, caplog):
    with locked(tmp_path / ".lock"), pytest.raises(BlockingIOError):
        locked(tmp_path / ".lock", wait=False).__enter__()
    assert not caplog.messages
