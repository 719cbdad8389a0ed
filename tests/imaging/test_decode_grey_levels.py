"""DICOM's grey-scale pipeline on known values: rescale, tables, windows, inversion, padding, palettes, frames."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from dicom_making import make_dicom, to_bytes, transcode, waves
from pydicom import Dataset, dcmread, uid

from mskray.imaging.decode import decode
from mskray.imaging.intensity import full_range, look_up, window


def sequence(**elements: object) -> list[Dataset]:
    item = Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return [item]


def with_table(stored: np.ndarray, keyword: str, first: int, entries: list[int], depth: int, packed: bool) -> bytes:
    """A 12-bit file with a modality or VOI table, its entries as numbers (US) or as bytes (OW)."""
    header = dcmread(BytesIO(make_dicom(stored, 12)))
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(entries), first, depth])
    data = np.array(entries, np.uint16).tobytes() if packed else entries
    item.add_new("LUTData", "OW" if packed else "US", data)
    setattr(header, keyword, [item])
    return to_bytes(header)


STORED = waves(60, 50, 12)
VALUES = STORED.astype(float)
CURVE = [int(level) for level in np.sqrt(np.linspace(0, 1, 3000)) * 1023]


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(
    ("keyword", "expected"),
    [
        ("VOILUTSequence", look_up(VALUES, 500, np.array(CURVE)) / 1023),
        # A modality table gives values, not levels: without a window they are stretched.
        ("ModalityLUTSequence", look_up(VALUES, 500, np.array(CURVE)) / 1023),
    ],
)
def test_look_up_tables(keyword: str, expected: np.ndarray, packed: bool) -> None:
    image = decode(with_table(STORED, keyword, 500, CURVE, 10, packed))
    assert np.array_equal(image.pixels, full_range(expected, np.uint16))
    assert image.metadata["voi"] == ("lut" if keyword == "VOILUTSequence" else "none")


def test_a_table_that_begins_below_zero_and_is_written_as_unsigned() -> None:
    image = decode(with_table(STORED, "VOILUTSequence", 65_536 - 200, CURVE, 10, packed=True))
    assert np.array_equal(image.pixels, full_range(look_up(VALUES, -200, np.array(CURVE)) / 1023, np.uint16))


GREY_LEVELS = [
    ({}, VALUES / 4095, "none"),
    ({"PhotometricInterpretation": "MONOCHROME1"}, 1 - VALUES / 4095, "none"),
    ({"RescaleSlope": "2", "RescaleIntercept": "-1024"}, VALUES / 4095, "none"),
    ({"RescaleSlope": "-1", "RescaleIntercept": "4095"}, 1 - VALUES / 4095, "none"),
    ({"WindowCenter": "2000", "WindowWidth": "1000"}, window(VALUES, 2000, 1000), "window"),
    ({"WindowCenter": [2000, 100], "WindowWidth": [1000, 50]}, window(VALUES, 2000, 1000), "window"),
    (
        {"WindowCenter": "2000", "WindowWidth": "1000", "PhotometricInterpretation": "MONOCHROME1"},
        1 - window(VALUES, 2000, 1000),
        "window",
    ),
    (
        {"WindowCenter": "300", "WindowWidth": "800", "RescaleSlope": "0.5", "RescaleIntercept": "-1000"},
        window(VALUES * 0.5 - 1000, 300, 800),
        "window",
    ),
    (
        {"WindowCenter": "2000", "WindowWidth": "500", "VOILUTFunction": "SIGMOID"},
        1 / (1 + np.exp(-4 * (VALUES - 2000) / 500)),
        "window",
    ),
    (
        {"WindowCenter": "2000", "WindowWidth": "500", "VOILUTFunction": "LINEAR_EXACT"},
        np.clip((VALUES - 2000) / 500 + 0.5, 0, 1),
        "window",
    ),
    # A window that the standard forbids says nothing.
    ({"WindowCenter": "2000", "WindowWidth": "0"}, VALUES / 4095, "none"),
    ({"WindowCenter": "2000"}, VALUES / 4095, "none"),
    ({"PixelPaddingValue": 4095}, np.where(VALUES == 4095, 0, VALUES / VALUES[VALUES < 4095].max()), "none"),
    (
        {"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 99, "PhotometricInterpretation": "MONOCHROME1"},
        np.where(VALUES < 100, 0, (4095 - VALUES) / (4095 - VALUES[VALUES >= 100].min())),
        "none",
    ),
]


@pytest.mark.parametrize(("elements", "levels", "voi"), GREY_LEVELS)
def test_grey_levels(elements: dict, levels: np.ndarray, voi: str) -> None:
    image = decode(make_dicom(STORED, 12, **elements))
    assert np.abs(image.pixels.astype(int) - full_range(levels, np.uint16)).max() <= 1
    assert image.metadata["voi"] == voi


def test_a_single_grey_level_is_black() -> None:
    assert decode(make_dicom(np.full((9, 8), 700, np.uint16), 12)).pixels.max() == 0
    assert decode(make_dicom(np.full((9, 8), 700, np.uint16), 12, PixelPaddingValue=700)).pixels.max() == 0


@pytest.mark.parametrize(
    "syntax",
    [uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian],
    ids=lambda syntax: syntax.keyword,
)
@pytest.mark.parametrize("depth", [8, 16])
def test_palette(syntax: uid.UID, depth: int, tmp_path: Path) -> None:
    indices = waves(40, 30, 8)
    top = (1 << depth) - 1
    channels = {"Red": np.arange(256), "Green": np.arange(256)[::-1], "Blue": np.full(256, 100)}
    header = dcmread(BytesIO(make_dicom(indices, 8, PhotometricInterpretation="PALETTE COLOR")))
    for colour, levels in channels.items():
        header.add_new(f"{colour}PaletteColorLookupTableDescriptor", "US", [256, 0, depth])
        entries = (levels * (top // 255)).astype(f"u{depth // 8}")
        header.add_new(f"{colour}PaletteColorLookupTableData", "OW", entries.tobytes())
    pixels = decode(transcode(to_bytes(header), syntax, tmp_path)).pixels
    expected = sum(weight * levels for weight, levels in zip((0.299, 0.587, 0.114), channels.values(), strict=True))
    assert np.abs(pixels - expected[indices]).max() <= (
        0.51 if depth == 8 else 1.1
    )  # GDCM keeps a 16-bit entry's high byte


def test_segmented_palette() -> None:
    header = dcmread(BytesIO(make_dicom(waves(40, 30, 8), 8, PhotometricInterpretation="PALETTE COLOR")))
    # One entry of 0, then 255 on a line up to 65,535 (PS3.3 C.7.9.2).
    ramp = np.array([0, 1, 0, 1, 255, 65_535], np.uint16).tobytes()
    for colour in ("Red", "Green", "Blue"):
        header.add_new(f"{colour}PaletteColorLookupTableDescriptor", "US", [256, 0, 16])
        header.add_new(f"Segmented{colour}PaletteColorLookupTableData", "OW", ramp)
    assert np.array_equal(decode(to_bytes(header)).pixels, waves(40, 30, 8))


def test_enhanced_multi_frame_has_transforms_and_spacing_by_frame() -> None:
    frames = np.stack([waves(20, 30, 12), waves(20, 30, 12)])
    header = dcmread(BytesIO(make_dicom(frames, 12)))
    shared = Dataset()
    shared.PixelMeasuresSequence = sequence(PixelSpacing=[0.5, 0.25])
    shared.FrameVOILUTSequence = sequence(WindowCenter="2000", WindowWidth="1000")
    header.SharedFunctionalGroupsSequence = [shared]
    header.PerFrameFunctionalGroupsSequence = []
    for slope in (1, 2):
        item = Dataset()
        item.PixelValueTransformationSequence = sequence(RescaleSlope=str(slope), RescaleIntercept="0")
        header.PerFrameFunctionalGroupsSequence.append(item)
    image = decode(to_bytes(header))
    assert image.pixel_spacing_mm == (0.5, 0.25)
    for slope, frame in zip((1, 2), image.pixels, strict=True):
        assert np.array_equal(frame, full_range(window(frames[0] * float(slope), 2000, 1000), np.uint16))
