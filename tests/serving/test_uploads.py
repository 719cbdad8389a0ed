"""What comes in: names, limits while the body arrives, content before names."""

import numpy as np
import pytest
from serving_samples import dicom, encoded, radiograph

from mskray.serving.forms import Upload, safe_name
from mskray.serving.problems import Problem
from mskray.serving.settings import Limits
from mskray.serving.uploads import UploadedStudy, decode_study


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("knee.dcm", "knee.dcm"),
        ("../../etc/passwd", "passwd"),
        ("C:\\studies\\left knee.png", "left_knee.png"),
        ("<script>alert(1)</script>.png", "script_.png"),
        ("a\r\nSet-Cookie: b.png", "a_Set-Cookie_b.png"),
        ("röntgen.tiff", "r_ntgen.tiff"),
        (".hidden", "hidden"),
        ("x" * 300, "x" * 80),
        ("..", None),
        ("/", None),
        ("", None),
        (None, None),
    ],
)
def test_safe_name(name: str | None, safe: str | None) -> None:
    assert safe_name(name) == safe


PIXELS = radiograph(1)


@pytest.mark.parametrize(
    ("content", "given_part", "expected"),
    [
        (encoded(PIXELS, "PNG"), "", ("png", "")),
        (encoded(PIXELS, "TIFF"), "KNEE", ("tiff", "KNEE")),
        (encoded(PIXELS, "JPEG"), "", ("jpeg", "")),
        (dicom(PIXELS, "wrist"), "", ("dicom", "WRIST")),
        (dicom(PIXELS, "WRIST"), "KNEE", ("dicom", "KNEE")),
        (dicom(PIXELS, "<b>"), "", ("dicom", "")),
        (dicom(PIXELS, frames=2), "", "2 frames are more than the limit of 1"),
        (b"%PDF-1.7", "", "a PDF, not an image"),
        (encoded(PIXELS, "PNG")[:60], "", "truncated"),
        (b"", "", "an empty file"),
    ],
)
def test_decode_one_view(content: bytes, given_part: str, expected: tuple[str, str] | str) -> None:
    study = UploadedStudy((Upload(0, "view.png", content),), given_part)
    views, unreadable = decode_study(study, Limits())
    if isinstance(expected, str):
        assert not views
        assert expected in unreadable[0].reason
    else:
        assert not unreadable
        assert (views[0].format, views[0].body_part) == expected
        assert views[0].pixels.shape == PIXELS.shape


def test_decode_keeps_order_and_indices() -> None:
    contents = [b"?", encoded(PIXELS, "PNG"), b"", encoded(PIXELS.T.copy(), "PNG")]
    study = UploadedStudy(tuple(Upload(index, None, content) for index, content in enumerate(contents)), "")
    views, unreadable = decode_study(study, Limits())
    assert [view.index for view in views] == [1, 3]
    assert [view.index for view in unreadable] == [0, 2]
    np.testing.assert_array_equal(views[1].pixels, PIXELS.T)


@pytest.mark.parametrize(("views", "allowed"), [(2, 2 * PIXELS.size), (3, None)])
def test_pixels_of_a_study_are_bounded(views: int, allowed: int | None) -> None:
    limits = Limits(max_pixels=2 * PIXELS.size)
    study = UploadedStudy(tuple(Upload(index, None, encoded(PIXELS, "PNG")) for index in range(views)), "")
    if allowed is None:
        with pytest.raises(Problem) as raised:
            decode_study(study, limits)
        assert (raised.value.status_code, raised.value.kind) == (413, "too-large")
    else:
        assert sum(view.pixels.size for view in decode_study(study, limits)[0]) == allowed
