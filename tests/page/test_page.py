"""The reading page in a real browser, end to end: files in, what the models say out, the same as over HTTP."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import requests
from pydicom import dcmread

pytestmark = [pytest.mark.system("chromium"), pytest.mark.slow]

Browse = Callable[..., dict[str, Any]]
SIZES = {"desktop": (1440, 900), "tablet": (834, 1112)}
DATA = Path(os.environ.get("MSKRAY_DATA", "missing"))
PIXEL = (31, 40)
"""Column and row whose grey value is compared."""


def pictures(folder: Path, count: int = 2) -> list[Path]:
    """Phantom radiographs of 8 bits as PNG files; the second is not square to the first."""
    from mskray.imaging.phantoms.plan import PhantomSpec
    from mskray.imaging.phantoms.radiograph import render

    spec = PhantomSpec(patients=count, seed=5, image_size=160, parts=("WRIST",))
    paths = [folder / f"view-{place}.png" for place in range(count)]
    for place, path in enumerate(paths):
        cv2.imwrite(str(path), render(spec, place, 0).pixels)
    return paths


def shown(share: float) -> float:
    return round(share, 3)


def sent(url: str, path: str, files: list[tuple[str, Path]], **data: str) -> dict[str, Any]:
    """Ask the server the same without a browser."""
    parts = [(field, (each.name, each.read_bytes())) for field, each in files]
    answered = requests.post(url + path, files=parts, data=data, timeout=120)
    assert answered.ok, answered.text
    said: dict[str, Any] = answered.json()
    while said.get("status") in ("waiting", "running"):
        time.sleep(0.2)
        said = requests.get(url + said["href"], timeout=30).json()
    return said


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_a_study_is_read_and_corrected(url: str, browse: Browse, tmp_path: Path, size: tuple[int, int]) -> None:
    paths = pictures(tmp_path)
    pixels = cv2.imread(str(paths[0]), cv2.IMREAD_UNCHANGED)
    given = int(pixels[PIXEL[1], PIXEL[0]])
    said = sent(url, "/v1/studies?explain=grad_cam", [("views", path) for path in paths], body_part="WRIST")
    facts = browse("study.mjs", url=url, size=size, files=paths, pixel=PIXEL, bodyPart="WRIST")

    study, view = said["study"], said["views"][0]
    assert facts["called"] == study["label"]
    assert facts["meters"] == [
        [
            "Probability of abnormal",
            shown(study["probabilities"]["abnormal"]),
            f"{study['probabilities']['abnormal'] * 100:.0f} %, threshold 40 %",
        ]
    ]
    assert [vote[1] for vote in facts["votes"]] == [shown(vote["abnormal"]) for vote in view["members"].values()]
    assert [name.split()[0] for name in facts["members"]] == list(view["members"]) == ["first", "second"]
    assert "75 % of the vote" in facts["members"][0]
    # One of the members learned from no wrists, and says so in both places.
    assert "not trained on WRIST" not in facts["reliability"][0]
    assert "not trained on WRIST" in facts["reliability"][1]
    assert "validation AUROC 0.75" in facts["reliability"][0]
    assert len(facts["warnings"]) == len(said["warnings"]) > 0
    for told, warning in zip(facts["warnings"], said["warnings"], strict=True):
        assert warning["message"] in told
        assert all(paths[place].name in told for place in warning["views"])
    assert [path.name in told for path, told in zip(paths, facts["views"], strict=True)] == [True, True]
    assert facts["told"].startswith(f"{study['label']}, probability")

    assert (facts["plain"], facts["inverted"], facts["reset"]) == (given, 255 - given, given)
    assert facts["darker"] < given or given == 0
    fit, wheeled, keyed, (x, y) = facts["fit"], facts["wheeled"], facts["keyed"], facts["pointer"]
    assert wheeled["across"] > 1.1 * fit["across"]
    # What lies under the pointer stays there.
    for axis, step, at in (("x", "across", x), ("y", "down", y)):
        held = (at - fit[axis]) / fit[step], (at - wheeled[axis]) / wheeled[step]
        assert held[0] == pytest.approx(held[1], abs=0.5)
    assert keyed["across"] == pytest.approx(1.25 * fit["across"], rel=1e-3)
    # The right arrow looks further right: the picture moves to the left.
    middle = fit["x"] + fit["across"] * pixels.shape[1] / 2
    assert keyed["x"] + keyed["across"] * pixels.shape[1] / 2 < middle - 10

    overlay = view["overlays"][0]
    rows, columns = pixels.shape
    box = [
        overlay["x"] * fit["across"],
        overlay["y"] * fit["down"],
        overlay["width"] / columns,
        overlay["height"] / rows,
    ]
    assert facts["map"] == pytest.approx(box, abs=0.02)
    assert [float(each) for each in facts["opacity"]] == pytest.approx([0.5, 0.6])
    assert facts["hidden"] == 0

    assert facts["boxes"] == 2
    assert "normal, 2 boxes" in facts["stored"]
    assert facts["next"].startswith(paths[1].name)


def test_a_pair_is_compared_side_by_side(url: str, browse: Browse, tmp_path: Path) -> None:
    from mskray.imaging.phantoms.marrow import MarrowSpec, marrow_pairs, render_pair

    spec = MarrowSpec(patients=1, seed=1, image_size=192)
    drawn = render_pair(spec, next(iter(marrow_pairs(spec)))).pixels
    paths = [tmp_path / "before.png", tmp_path / "after.png"]
    for path, pixels in zip(paths, drawn, strict=True):
        cv2.imwrite(str(path), pixels)
    said = sent(url, "/v1/pairs", [("before", paths[0]), ("after", paths[1])])
    facts = browse("pair.mjs", url=url, before=paths[0], after=paths[1], pixel=PIXEL)

    expected = [[f"Probability of {name}", shown(share)] for name, share in said["pair"]["probabilities"].items()]
    assert facts["called"] == said["pair"]["label"]
    assert [each[:2] for each in facts["classes"]] == expected
    assert len(facts["votes"]) == 3 * len(said["members"])
    assert facts["titles"] == ["Before · before.png", "After · after.png"]
    greys = [int(pixels[PIXEL[1], PIXEL[0]]) for pixels in drawn]
    assert facts["plain"] == greys
    assert facts["inverted"] == [255 - grey for grey in greys]
    first, second = facts["placed"]
    left, right = facts["panes"]
    assert (first["across"], first["y"]) == pytest.approx((second["across"], second["y"]))
    assert second["x"] - right["x"] == pytest.approx(first["x"] - left["x"], abs=1)
    assert left["right"] <= right["left"]


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_a_spine_is_graded_with_hotspots_through_its_slices(
    url: str, browse: Browse, tmp_path: Path, size: tuple[int, int]
) -> None:
    from disc_layouts import metaimage
    from reading_room import phantom

    volume = phantom().volume
    path = metaimage(tmp_path / "spine.mha", volume)
    said = sent(url, "/v1/spines?explain=saliency", [("files", path)])["spine"]
    disc = said["discs"][2]
    middle = round(disc["placement"]["slices"][len(disc["placement"]["slices"]) // 2])
    slice_, (column, row) = volume.pixels.shape[0] // 2, (180, 200)
    facts = browse(
        "spine.mjs",
        url=url,
        size=size,
        files=path,
        pixel=(slice_, column, row),
        choose=f"{disc['level']} narrowing:",
        shown=middle,
    )
    tasks = ["pfirrmann", "narrowing", "upper_endplate", "lower_endplate", "upper_marrow", "lower_marrow"]
    expected = [[each["level"], *(each["grades"][task]["label"] for task in tasks)] for each in said["discs"]]
    assert facts["grades"] == expected
    assert np.array(facts["grades"]).shape == (6, 7)
    assert facts["bodies"] == ["T12", "L1", "L2", "L3", "L4", "L5", "S1"]
    assert [
        each.startswith(warning["message"]) for each, warning in zip(facts["warnings"], said["warnings"], strict=True)
    ]
    assert facts["slices"] == volume.pixels.shape[0]
    assert facts["grey"] == pytest.approx(_windowed(volume.pixels)[slice_, row, column], abs=8)
    assert facts["told"] == f"7 bodies found, 6 discs graded, {len(said['warnings'])} warnings."

    assert facts["chosen"] == f"{disc['level']}, narrowing: {disc['grades']['narrowing']['label']}"
    assert {"T12", "L5", disc["level"]} <= set(facts["marks"])
    places = disc["placement"]["slices"]
    for place, maps in enumerate(facts["hotspots"]):
        near = min(abs(each - place) for each in places)
        if near < 0.45:
            assert len(maps) == 1
            numbers = [float(each) for each in maps[0].removeprefix("matrix(").rstrip(")").split(",")]
            assert numbers == pytest.approx(disc["placement"]["matrix"], abs=1e-3)
        elif not min(places) - 1 < place < max(places) + 1:
            assert maps == []
    assert sum(map(len, facts["hotspots"])) >= 3
    assert facts["keyed"] == "2"


def _windowed(pixels: np.ndarray) -> np.ndarray:
    """Grey values from 0 to 255 of all but the outermost half per cent at both ends."""
    low, high = np.percentile(pixels, [0.5, 99.5])
    return np.clip((pixels - low) / (high - low), 0, 1) * 255


def test_a_token_is_asked_for_once_and_kept_for_the_tab(browse: Browse, tmp_path: Path) -> None:
    from reading_room import studies_alone
    from serving_samples import DIGEST, TOKEN, over_http

    from mskray.serving.settings import Limits
    from mskray.serving.tokens import Access

    with over_http(studies_alone(tmp_path, Limits(), Access(DIGEST))) as url:
        facts = browse("access.mjs", url=url, token=TOKEN)
    assert facts["refused"] == "The token was not accepted."
    assert facts["kept"] == {"tab": [TOKEN], "machine": [], "cookies": ""}
    assert facts["again"] == 0
    assert facts["keys"] > 10
    assert "<h3>first</h3>" in facts["card"]
    assert "not a medical device" in facts["card"].lower()


def test_what_goes_wrong_is_told_and_a_busy_server_is_asked_again(browse: Browse, tmp_path: Path) -> None:
    from reading_room import studies_alone
    from serving_samples import over_http

    from mskray.serving.settings import Limits
    from mskray.serving.tokens import Access

    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    with over_http(studies_alone(tmp_path, Limits(max_open=1, max_waiting=0), Access())) as url:
        facts = browse("trouble.mjs", url=url, files=pictures(tmp_path, 1), broken=broken)
    assert "cannot be read" in facts["refused"]
    assert "broken.png" in facts["refused"]
    assert facts["cleared"] == ""
    assert facts["waiting"].endswith("asking again in 5 s (1 of 5)")
    assert facts["called"] in ("normal", "abnormal")


@pytest.mark.skipif(not (DATA / "knee_oa").is_dir(), reason="MSKRAY_DATA does not name a folder with knee_oa")
def test_real_knees_are_read(url: str, browse: Browse) -> None:
    paths = sorted((DATA / "knee_oa").rglob("*.png"))[:2]
    pixels = cv2.imread(str(paths[0]), cv2.IMREAD_GRAYSCALE)
    said = sent(url, "/v1/studies", [("views", path) for path in paths], body_part="KNEE")
    facts = browse("study.mjs", url=url, files=paths, pixel=PIXEL, bodyPart="KNEE")
    assert facts["called"] == said["study"]["label"]
    assert facts["plain"] == pixels[PIXEL[1], PIXEL[0]]


@pytest.mark.parametrize("name", ["lumbar_t2/t2_lumbar.nii.gz", "knee_mri_dicom"])
def test_a_real_series_is_shown(url: str, browse: Browse, name: str) -> None:
    place = DATA / name
    if not place.exists():
        pytest.skip(f"MSKRAY_DATA does not name a folder with {name}")
    from mskray.imaging.volumes import read_volumes, to_sagittal

    # A series of two echoes is two volumes: a reader gives the files of one.
    paths = [path for path in sorted(place.glob("*.dcm")) if dcmread(path).EchoNumbers == 1] or [place]
    volume = to_sagittal(read_volumes((path.name, path.read_bytes()) for path in paths).only())
    slices, rows, columns = volume.pixels.shape
    pixel = (slices // 2, columns // 2, rows // 2)
    facts = browse("spine.mjs", url=url, files=paths, pixel=pixel)
    assert facts["slices"] == slices
    assert facts["grey"] == pytest.approx(_windowed(volume.pixels)[pixel[0], pixel[2], pixel[1]], abs=8)
    # A detector that learned nothing finds nothing, and the page says so rather than showing an empty table.
    assert facts["bodies"] == []
    assert len(facts["warnings"]) > 0
