"""What a server's refusal means to who watches an archive: is it the study, a defect, or the moment?"""

from collections.abc import Iterator
from contextlib import contextmanager

from mskray.client import RequestRefused
from mskray.dicom.study import Failed
from mskray.errors import Fault

_OF_THE_STUDY = (413, 422)
"""What a server answers where only this study is to blame."""
_DEFECT = 500


@contextmanager
def asking() -> Iterator[None]:
    """Raise RequestRefused where the study is to blame, Failed for a defect of the server, Fault for all else: a
    server that is away, starts, does not know the token or answers something else now."""
    try:
        yield
    except RequestRefused as error:
        if error.status in _OF_THE_STUDY:
            raise
        raise (Failed if error.status == _DEFECT else Fault)(str(error)) from None


def check_same(answered: str, expected: str) -> None:
    """Raise Fault where another model answered than the one by whose hash the answer is remembered."""
    if answered != expected:
        raise Fault("the server changes its model: this is asked again")
