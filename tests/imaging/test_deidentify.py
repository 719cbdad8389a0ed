"""Pseudonyms are stable, apart by kind and key; the key file is private, whole, and made once."""

import hashlib
import hmac
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mskray.errors import UserError
from mskray.imaging.deidentify import Pseudonymiser, load_key

KEY = b"0123456789abcdef"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty configuration folder and no key in the environment; the key file's path."""
    monkeypatch.delenv("MSKRAY_HASH_KEY", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path / "mskray" / "hash.key"


def test_known_answers() -> None:
    """Fixed for ever: a cohort made last year must still match."""
    names = Pseudonymiser(KEY)
    assert names.patient("MRN-0042") == hmac.new(KEY, b"patient\x00MRN-0042", hashlib.sha256).hexdigest()[:16]
    assert names.patient("MRN-0042") == "4b599df572bbe066"
    assert names.study("1.2.840.1") == "ec0f873ef3512cde"
    assert names.instance("1.2.840.1") == "0254f1bb8bc319d7"
    assert names.fingerprint == "aea07ea7"


@pytest.mark.parametrize("kind", [Pseudonymiser.patient, Pseudonymiser.study, Pseudonymiser.instance])
def test_pseudonyms(kind: Callable[[Pseudonymiser, str], str]) -> None:
    names, others = Pseudonymiser(KEY), Pseudonymiser(b"fedcba9876543210")
    assert len(kind(names, "A")) == 16
    assert set(kind(names, "A")) <= set("0123456789abcdef")
    assert kind(names, "A") == kind(Pseudonymiser(KEY), "A") == kind(names, "A \x00") == kind(names, " A")
    assert kind(names, "A") != kind(names, "a")
    assert kind(names, "A") != kind(others, "A")
    assert kind(names, "Müller\udcff")
    with pytest.raises(ValueError, match="empty"):
        kind(names, " \x00")


def test_kinds_and_keys_are_apart() -> None:
    names = Pseudonymiser(KEY)
    assert len({names.patient("1"), names.study("1"), names.instance("1")}) == 3
    assert names.fingerprint != Pseudonymiser(KEY + b"!").fingerprint
    assert len(names.fingerprint) == 8


def test_short_key() -> None:
    with pytest.raises(UserError, match="15 characters"):
        Pseudonymiser(KEY[:15])


@pytest.mark.parametrize("text", ["0123456789abcdef", "  a pass phrase of words \n", "ab" * 32])
def test_key_from_the_environment(text: str, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MSKRAY_HASH_KEY", text)
    assert load_key() == text.strip().encode()
    assert not config.exists()


@pytest.mark.parametrize("text", ["", "short", "x" * 15 + " "])
def test_short_key_in_the_environment(text: str, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MSKRAY_HASH_KEY", text)
    with pytest.raises(UserError, match=r"MSKRAY_HASH_KEY has \d+ characters"):
        load_key()


def test_the_key_file_is_made_once_and_private(config: Path) -> None:
    told = list[str]()
    key = load_key(told.append)
    assert len(key) == 64
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    assert stat.S_IMODE(config.parent.stat().st_mode) == 0o700
    assert load_key(told.append) == key == config.read_bytes().strip()
    assert [str(config) in each for each in told] == [True]
    assert [path.name for path in config.parent.iterdir()] == ["hash.key"]


def test_home_serves_where_the_configuration_folder_is_relative(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    key = load_key()
    assert (tmp_path / ".config" / "mskray" / "hash.key").read_bytes().strip() == key


@pytest.mark.parametrize(
    ("content", "mode", "message"),
    [
        (b"a key that all can read\n", 0o644, "chmod 600"),
        (b"a key of the group's\n", 0o640, "chmod 600"),
        (b"short\n", 0o600, "5 characters"),
        (b"", 0o600, "0 characters"),
        (b"\xff\xfe\xfd" * 20, 0o600, "cannot be used"),
    ],
)
def test_bad_key_files(content: bytes, mode: int, message: str, config: Path) -> None:
    config.parent.mkdir()
    config.write_bytes(content)
    config.chmod(mode)
    with pytest.raises(UserError, match=message):
        load_key()


def test_a_folder_that_cannot_be_made(config: Path) -> None:
    config.parent.write_text("a file in the folder's place")
    with pytest.raises(UserError, match="set MSKRAY_HASH_KEY instead"):
        load_key()


def test_processes_that_start_at_once_share_one_key(config: Path) -> None:
    command = [sys.executable, "-c", "from mskray.imaging.deidentify import load_key; print(load_key().decode())"]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ, text=True) for _ in range(6)]
    keys = {process.communicate(timeout=60)[0].strip() for process in processes}
    assert keys == {config.read_text().strip()}
