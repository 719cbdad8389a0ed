"""Keyed hashes in place of patient, study and instance identifiers, so that a cohort names nobody and still groups.

The same key gives the same pseudonyms on every machine and in every ingest; without the key, nobody can test whether
a known identifier is in a cohort (which a plain hash would allow). Keep the key as you keep the identifiers.
"""

import hmac
import os
import secrets
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from mskray.errors import UserError

KEY_VARIABLE = "MSKRAY_HASH_KEY"
MIN_KEY_LENGTH = 16


class Pseudonymiser:
    """HMAC-SHA-256 (RFC 2104) of an identifier under a key, kept apart by kind, cut to 64 bits (16 hex characters).

    Two of n identifiers of one kind share a pseudonym with a probability of about n²/2⁶⁵: 3 in 100 million for a
    million patients, 3 in a million for ten million images.

    key: at least 16 bytes. Raises `UserError` for a shorter one. Surrounding blanks of an identifier, which DICOM pads
    with, do not count; an empty one raises `ValueError`, because all who lack one would become a single patient.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) < MIN_KEY_LENGTH:
            raise UserError(
                f"The hash key has {len(key)} characters; set {KEY_VARIABLE} to at least {MIN_KEY_LENGTH} random ones"
            )
        self._key = key

    @property
    def fingerprint(self) -> str:
        """8 hex characters that tell whether two cohorts share a key, and not which."""
        return self._hash("key", "fingerprint")[:8]

    def patient(self, raw: str) -> str:
        """The pseudonym of a patient identifier."""
        return self._hash("patient", raw)

    def study(self, raw: str) -> str:
        """The pseudonym of a study identifier."""
        return self._hash("study", raw)

    def instance(self, raw: str) -> str:
        """The pseudonym of an image's identifier (SOP Instance UID, or its path)."""
        return self._hash("instance", raw)

    def _hash(self, kind: str, raw: str) -> str:
        identifier = raw.strip(" \t\r\n\x00")
        if not identifier:
            raise ValueError(f"an empty {kind} identifier cannot be hashed")
        # The kind ends in a byte that no kind holds: ("a", "bc") and ("ab", "c") must not meet.
        message = kind.encode() + b"\x00" + identifier.encode("utf-8", "surrogatepass")
        return hmac.digest(self._key, message, "sha256")[:8].hex()


def load_key(tell: Callable[[str], None] = lambda _: None) -> bytes:
    """The hash key: the variable MSKRAY_HASH_KEY, else the file mskray/hash.key under XDG_CONFIG_HOME (~/.config).

    The file is made at first use, with 256 random bits, readable by its owner alone. Call this on the machine that
    drives a run and hand the key to the workers: each machine would otherwise make its own.

    Args:
        tell: told where a key was made.

    Raises `UserError` where the key is too short, the file is open to others, or it cannot be read or made.
    """
    if KEY_VARIABLE in os.environ:
        return _long_enough(os.environ[KEY_VARIABLE], KEY_VARIABLE)
    path = _key_file()
    try:
        if not path.exists():
            _create(path)
            tell(f"made the key of the identifiers' hashes: {path}; keep it, other cohorts need the same one")
        with path.open(encoding="utf-8") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise UserError(f"The hash key {path} can be read by others; run: chmod 600 {path}")
            return _long_enough(file.read(4096), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The hash key {path} cannot be used ({error}); set {KEY_VARIABLE} instead") from None


def _key_file() -> Path:
    base = os.environ.get("XDG_CONFIG_HOME", "")
    # A relative path there is invalid and to be ignored (XDG Base Directory Specification).
    return (Path(base) if os.path.isabs(base) else Path.home() / ".config") / "mskray" / "hash.key"


def _long_enough(text: str, where: str) -> bytes:
    key = text.strip().encode()
    if len(key) < MIN_KEY_LENGTH:
        raise UserError(f"The hash key in {where} has {len(key)} characters; at least {MIN_KEY_LENGTH} are needed")
    return key


def _create(path: Path) -> None:
    """Write a new key whole or not at all; of two processes that try at once, the first wins and both use its key."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # mkstemp makes the file with mode 0600.
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".hash.key.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(secrets.token_hex(32) + "\n")
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(name, path)
    finally:
        os.unlink(name)
