"""Temporary folders: private, gone afterwards, and those of killed processes removed; of live ones never."""

import os
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from mskray.scratch import make_scratch, scratch

_HOLDS = "import sys, time; from mskray.scratch import make_scratch; print(make_scratch('test')[0], flush=True); "


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def other(place: Path) -> tuple[Path, "subprocess.Popen[str]"]:
    """Another process that holds a folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLDS + "time.sleep(60)"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(place)},
    )
    assert process.stdout is not None
    folder = Path(process.stdout.readline().strip())
    (folder / "kept").write_text("data")
    return folder, process


def old(folder: Path) -> None:
    os.utime(folder, (time.time() - 3600,) * 2)


def test_a_folder_is_private_and_gone_afterwards(place: Path) -> None:
    with scratch("test") as folder:
        assert folder.parent == place
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        (folder / "sub").mkdir()
    assert list(place.iterdir()) == []


def test_what_a_killed_process_left_is_removed_and_no_other(place: Path) -> None:
    (left, killed), (held, lives) = other(place), other(place)
    killed.kill()
    killed.wait(20)
    for folder in (left, held):
        old(folder)
    young, _ = make_scratch("test")
    stranger = place / "mskray-tested"
    stranger.mkdir()
    old(stranger)
    try:
        with scratch("test"):
            assert not left.exists()
            assert (held / "kept").read_text() == "data"
            assert young.exists()
            assert stranger.exists()
    finally:
        lives.kill()
        lives.wait(20)


def test_a_young_folder_without_a_lock_is_about_to_be_locked(place: Path) -> None:
    (place / "mskray-test-abc").mkdir()
    with scratch("test"):
        assert (place / "mskray-test-abc").exists()


def test_a_link_leads_nowhere(place: Path) -> None:
    outside = place / "precious"
    outside.mkdir()
    (place / "mskray-test-link").symlink_to(outside)
    old(outside)
    with scratch("test"):
        assert outside.exists()
