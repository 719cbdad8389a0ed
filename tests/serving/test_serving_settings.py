"""Who may ask, and with what token."""

import pytest
from serving_samples import DIGEST, TOKEN

from mskray.errors import UserError
from mskray.serving.settings import TOKEN_VARIABLE, check_exposure, is_allowed, is_loopback, token_digest


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("localhost", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.7", False),
        ("10.0.0.1", False),
        ("hospital.example", False),
        ("localhost.example", False),
        ("", False),
    ],
)
def test_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
    check_exposure(host, DIGEST)
    if loopback:
        check_exposure(host, None)
    else:
        with pytest.raises(UserError, match=TOKEN_VARIABLE):
            check_exposure(host, None)


@pytest.mark.parametrize(
    ("token", "digest"),
    [
        (None, None),
        ("", None),
        (TOKEN, DIGEST),
        ("0123456789abcde", UserError),  # one short of sixteen
        ("0123456789 abcdef", UserError),
        ("0123456789äbcdef", UserError),
        ("0123456789abcdef\n", UserError),
    ],
)
def test_token_of_the_environment(
    token: str | None, digest: str | type[UserError] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    if token is not None:
        monkeypatch.setenv(TOKEN_VARIABLE, token)
    if digest is UserError:
        with pytest.raises(UserError, match=TOKEN_VARIABLE) as raised:
            token_digest()
        assert token not in str(raised.value)
    else:
        assert token_digest() == digest


@pytest.mark.parametrize(
    ("token", "digest", "allowed"),
    [
        (None, None, True),
        ("anything", None, True),
        (TOKEN, DIGEST, True),
        (None, DIGEST, False),
        ("", DIGEST, False),
        (TOKEN + "x", DIGEST, False),
        (DIGEST, DIGEST, False),  # the digest that Ray keeps opens nothing
        ("schlüssel", DIGEST, False),
    ],
)
def test_door(token: str | None, digest: str | None, allowed: bool) -> None:
    assert is_allowed(token, digest) is allowed
