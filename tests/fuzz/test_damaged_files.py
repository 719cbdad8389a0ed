"""The decoders alone, with damaged files: nothing but their own errors leaves them, and soon."""

import time
from contextlib import suppress

import pytest
from amount import COUNT, examples
from hypothesis import given
from hypothesis import strategies as st
from mutations import Change, changed, changes, fields
from samples import pictures, volumes

from mskray.imaging.decode import DecodeError, DecodeLimits, decode
from mskray.serving.forms import Upload
from mskray.serving.problems import Problem
from mskray.serving.settings import Limits
from mskray.serving.volumes import decode_volume

PICTURES, VOLUMES = pictures(), volumes()
LIMITS = DecodeLimits(max_bytes=1 << 22, max_pixels=1 << 20, max_frames=1)
LONGEST_S = 10.0
pytestmark = pytest.mark.timeout(300 + COUNT)


@examples(small=200, share=1.0)
@given(kind=st.sampled_from(sorted(PICTURES)), damage=changes())
def test_pictures(kind: str, damage: list[Change]) -> None:
    began = time.monotonic()
    with suppress(DecodeError):
        pixels = decode(changed(PICTURES[kind], damage), LIMITS).pixels
        assert pixels.ndim == 2
        assert pixels.size <= LIMITS.max_pixels
    assert time.monotonic() - began < LONGEST_S


@examples(small=40, share=0.2)
@given(kind=st.sampled_from(sorted(VOLUMES)), data=st.data())
def test_volumes(kind: str, data: st.DataObject) -> None:
    contents = list(VOLUMES[kind])
    for place in data.draw(st.lists(st.integers(0, len(contents) - 1), min_size=1, max_size=2, unique=True)):
        contents[place] = changed(contents[place], data.draw(changes()))
    limits = Limits(max_body=1 << 20, max_unpacked=1 << 22, max_pixels=1 << 20)
    began = time.monotonic()
    with suppress(Problem):
        found = decode_volume([Upload(place, None, each) for place, each in enumerate(contents)], limits)
        assert found.pixels.ndim == 3
        assert found.pixels.size <= limits.max_pixels
    assert time.monotonic() - began < LONGEST_S


@pytest.mark.parametrize("kind", [kind for kind in sorted(PICTURES) if "Deflated" not in kind])
def test_fields_that_may_lie_are_found(kind: str) -> None:
    assert len(fields(PICTURES[kind])) > 3
