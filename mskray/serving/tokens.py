"""Who may ask for what: bearer tokens, of which only hashes are kept.

    mskray tokens add s3://msk/serving/tokens.json ward-3 --scope predict
    mskray serve ENSEMBLE --tokens s3://msk/serving/tokens.json

A server reads the file again every few seconds: to exchange a token, add another one of the same name, give it to the
client, then remove the older one; jobs and links stay theirs. The token in MSKRAY_SERVE_TOKEN may do everything.
"""

import asyncio
import hashlib
import hmac
import logging
import os
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mskray.errors import UserError
from mskray.serving.problems import Problem
from mskray.storage import Location, check_access, locate
from mskray.storage.versioned import read_versioned

TOKEN_VARIABLE = "MSKRAY_SERVE_TOKEN"  # nosec B105 # a variable's name
SCHEMA_VERSION = 1
Scope = Literal["predict", "feedback", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
ENVIRONMENT, NOBODY = "environment", "anyone"
"""What the audit calls the holder of the token in MSKRAY_SERVE_TOKEN, and whoever asks a server without tokens."""

_SHORTEST, _MOST_AT_ONCE = 16, 2
_SECRET_BYTES = 32
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_AGAIN_S = 5.0
_log = logging.getLogger("ray.serve")


class Token(BaseModel):
    """A client's token; `digest` is the SHA-256 of the secret, which has 256 random bits, so that no salt is needed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=f"^{_NAME.pattern}$")
    digest: str = Field(pattern="^[0-9a-f]{64}$")
    scopes: tuple[Scope, ...] = Field(min_length=1)
    created: datetime
    expires: datetime | None = None

    def allows(self, scope: Scope) -> bool:
        """Whether it may be used for this; who may do `admin` may do everything."""
        return scope in self.scopes or "admin" in self.scopes

    @property
    def expired(self) -> bool:
        return self.expires is not None and self.expires <= datetime.now(UTC)


@dataclass(frozen=True)
class Access:
    """What a replica is told of tokens: nothing that opens a door.

    Args:
        digest: SHA-256 of the token in MSKRAY_SERVE_TOKEN; None where there is none.
        tokens: URI of a file of tokens; None where there is none.
    """

    digest: str | None = None
    tokens: str | None = None

    @property
    def open(self) -> bool:
        """Nobody has to show a token."""
        return self.digest is None and self.tokens is None


def access(tokens: str | None = None) -> Access:
    """Return who may ask, by MSKRAY_SERVE_TOKEN and the file of tokens. Raises UserError: a token that could be
    guessed, a file that is missing or damaged."""
    if tokens is not None:
        read_tokens(tokens)
    return Access(token_digest(), None if tokens is None else str(locate(tokens)))


class Door:
    """Lets those in whose token allows what they ask for."""

    def __init__(self, given: Access) -> None:
        self._access = given
        self._known: Mapping[str, Token] = {}
        self._read_at = float("-inf")
        self._reading = asyncio.Lock()

    async def admit(self, token: str | None, scope: Scope) -> str:
        """Return the name of whoever shows the token. Raises Problem: a token is needed, another one is needed."""
        if self._access.open:
            return NOBODY
        shown = _digest(token or "")
        if self._access.digest is not None and hmac.compare_digest(shown, self._access.digest):
            return ENVIRONMENT
        await self._read()
        found = self._known.get(shown)
        if found is None or found.expired:
            told = "send the server's token as" if not token else "this token is not known; send the server's as"
            if found is not None:
                told = f"{found.name} has expired; send another token as"
            raise Problem("wrong-token", f"{told} `Authorization: Bearer …`", {"WWW-Authenticate": "Bearer"})
        if not found.allows(scope):
            raise Problem("not-allowed", f"{found.name} has {', '.join(found.scopes)}, and this needs {scope}")
        return found.name

    async def _read(self) -> None:
        if self._access.tokens is None:
            return
        async with self._reading:
            if time.monotonic() - self._read_at < _AGAIN_S:
                return
            try:
                tokens = await asyncio.to_thread(read_tokens, self._access.tokens)
                self._known = {token.digest: token for token in tokens}
            except Exception as error:  # a store that is away must not lock out those who were let in before
                _log.error("the tokens cannot be read, the last ones hold: %s", error)
            self._read_at = time.monotonic()


def token_digest() -> str | None:
    """Return the SHA-256 of the token in MSKRAY_SERVE_TOKEN, None where there is none.

    Raises:
        UserError: a token that could be guessed.
    """
    token = os.environ.get(TOKEN_VARIABLE, "")
    if not token:
        return None
    if len(token) < _SHORTEST or not token.isascii() or not token.isprintable() or " " in token:
        raise UserError(
            f"{TOKEN_VARIABLE} must have {_SHORTEST} or more ASCII characters and no space: "
            "make one with `openssl rand -hex 32`"
        )
    return _digest(token)


def read_tokens(uri: str) -> tuple[Token, ...]:
    """Return the tokens of a file. Raises UserError: no such file, or a damaged one."""
    location = locate(uri)
    if not location.is_file():
        raise UserError(f"{location} does not exist: make it with `mskray tokens add {uri} NAME --scope predict`")
    content = read_versioned(location, "file of tokens", SCHEMA_VERSION)
    try:
        return tuple(Token.model_validate(each) for each in content["tokens"])
    except (KeyError, TypeError, ValidationError) as error:
        raise UserError(f"{location} is damaged ({type(error).__name__}): restore it or add the tokens anew") from None


def add_token(uri: str, name: str, scopes: Sequence[str], days: int | None = None) -> str:
    """Add a token to a file, which is made where there is none, and return the secret: it is told this once.

    Args:
        days: how long it holds; None for ever.
    Raises:
        UserError: a name that has two tokens already, is kept for others or has odd characters, a scope that there is
            not.
    """
    location = locate(uri)
    check_access(location, write=True)
    if not _NAME.fullmatch(name):
        raise UserError(f"name {name!r}: give letters, digits, dots, hyphens or underscores, 64 at most")
    if unknown := [scope for scope in scopes if scope not in SCOPES]:
        raise UserError(f"scope {unknown[0]}: there are {', '.join(SCOPES)}")
    known = read_tokens(uri) if location.is_file() else ()
    if name in (ENVIRONMENT, NOBODY):
        raise UserError(f"name {name}: the audit calls others so; choose another one")
    if sum(token.name == name for token in known) >= _MOST_AT_ONCE:
        raise UserError(f"{location} has two tokens {name} already: remove the older one first (--older)")
    secret, now = secrets.token_urlsafe(_SECRET_BYTES), datetime.now(UTC)
    added = Token(
        name=name,
        digest=_digest(secret),
        scopes=tuple(scope for scope in SCOPES if scope in scopes),
        created=now,
        expires=None if days is None else now + timedelta(days=days),
    )
    _write(location, (*known, added))
    return secret


def remove_token(uri: str, name: str, older: bool = False) -> None:
    """Take the tokens of a name out of a file, or the older one alone. Raises UserError: there is none of this name."""
    location = locate(uri)
    check_access(location, write=True)
    known = read_tokens(uri)
    gone = [token for token in known if token.name == name][: 1 if older else None]
    left = tuple(token for token in known if token not in gone)
    if not gone:
        names = ", ".join(token.name for token in known) or "none"
        raise UserError(f"{location} has no token {name}; it has {names}")
    _write(location, left)


def _write(location: Location, tokens: Sequence[Token]) -> None:
    content = [token.model_dump(mode="json") for token in tokens]
    location.write_json({"schema_version": SCHEMA_VERSION, "tokens": content})


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
