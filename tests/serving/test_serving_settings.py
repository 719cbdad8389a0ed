"""Who may ask, and with what token."""

import pytest
from serving_samples import DIGEST

from mskray.errors import UserError
from mskray.serving.settings import check_exposure, is_loopback
from mskray.serving.tokens import TOKEN_VARIABLE, Access


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
    check_exposure(host, Access(DIGEST))
    check_exposure(host, Access(tokens="tokens.json"))
    if loopback:
        check_exposure(host, Access())
    else:
        with pytest.raises(UserError, match=TOKEN_VARIABLE):
            check_exposure(host, Access())
