"""Phantoms as DICOM sources, each object that the room makes, and the checkers that judge them."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from dicom_sources import ALGORITHM, KNEE_FINDING, radiograph, slices
from dicom_validity import errors_of
from pydicom import Dataset

from mskray.dicom import (
    Box,
    Finding,
    Group,
    Segment,
    disc_affine,
    file_bytes,
    parametric_map,
    secondary_capture,
    segmentation,
    structured_report,
)
from mskray.imaging.discs import DiscVolume, disc_volume
from mskray.imaging.phantoms import PhantomSpec, render
from mskray.imaging.phantoms.spine import SpinePhantom, SpineSpec, spine
from mskray.imaging.spine import SPINE_TASKS


@pytest.fixture(scope="session")
def phantom() -> SpinePhantom:
    return spine(SpineSpec(patients=1, seed=3), 0)


@pytest.fixture(scope="session")
def disc(phantom: SpinePhantom) -> DiscVolume:
    l4, l5 = (next(body for body in phantom.vertebrae if body.level == level) for level in ("L4", "L5"))
    return disc_volume(phantom.volume, l4, l5, size=40, slices=5)


@pytest.fixture(scope="session")
def series(phantom: SpinePhantom) -> list[Dataset]:
    pixels = phantom.volume.pixels
    return slices(np.clip(pixels / pixels.max() * 4095, 0, 4095).astype(np.uint16), phantom.volume.affine)


@pytest.fixture(scope="session")
def knee() -> Dataset:
    """A phantom of a limb, called a knee."""
    image = render(PhantomSpec(patients=1, image_size=64), 0, 0)
    return radiograph(stored=image.pixels.astype(np.uint16))


@pytest.fixture(scope="session")
def discs(phantom: SpinePhantom) -> list[Group]:
    """The spine's six discs with six grades each, as sure as a phantom's truth."""
    groups = []
    for each in phantom.discs:
        findings = []
        for task, classes in SPINE_TASKS.items():
            called = each.grades[task]
            rest = 0.1 / (len(classes) - 1)
            shares = {name: 0.9 if index == called else rest for index, name in enumerate(classes)}
            findings.append(Finding(task, classes[called], shares))
        groups.append(Group(each.level, tuple(findings), level=each.level))
    return groups


@pytest.fixture(scope="session")
def made(
    knee: Dataset, series: list[Dataset], phantom: SpinePhantom, disc: DiscVolume, discs: list[Group]
) -> dict[str, Dataset]:
    """One of each object."""
    area = Box(3.5, 4, 10, 12.25, score=0.9)
    before = radiograph(name="before", StudyInstanceUID="1.2.840.1", StudyDate="20190102")
    pair = Group("pair", (Finding("change", "worse", {"better": 0.1, "same": 0.2, "worse": 0.7}),))
    mask = np.zeros(phantom.volume.pixels.shape, bool)
    mask[2:4, 20:30, 30:50] = True
    heat = np.random.default_rng(1)
    return {
        "report of a study": structured_report(
            [knee], [Group("image 1", (KNEE_FINDING,), (0,), (area,), notes=("Not trained on knees.",))], ALGORITHM
        ),
        "report of a pair": structured_report([before, knee], [pair], ALGORITHM),
        "report of a spine": structured_report(series, discs, ALGORITHM),
        "picture": secondary_capture([knee], np.full((64, 40, 3), 200, np.uint8), ALGORITHM, "overlay"),
        "picture of a spine": secondary_capture(series, np.full((30, 40, 3), 9, np.uint8), ALGORITHM, "sheet"),
        "boxes": segmentation([knee], [Segment("a", (area,)), Segment("b", (Box(5, 5, 9, 9),))], ALGORITHM),
        "masks": segmentation(series, [Segment("L4/L5", mask=mask)], ALGORITHM, "changes"),
        "map": parametric_map([knee], heat.random((knee.Rows, knee.Columns)), ALGORITHM, "guided"),
        "map of slices": parametric_map(series, heat.random(mask.shape), ALGORITHM, "all"),
        "map of a disc": parametric_map(
            series,
            heat.random(disc.pixels.shape),
            ALGORITHM,
            "L4/L5 pfirrmann",
            affine=disc_affine(phantom.volume, disc),
        ),
    }


@pytest.fixture
def judged(tmp_path: Path) -> Callable[[Dataset], list[str]]:
    """What dciodvfy finds wrong with an object: its lines that begin with Error."""

    return lambda dataset: errors_of(dataset, tmp_path)


@pytest.fixture
def dumped(tmp_path: Path) -> Callable[..., str]:
    """What one of dcmtk's tools prints of an object, which it must read without complaint."""

    def dump(dataset: Dataset, *tool: str) -> str:
        file = tmp_path / "dumped.dcm"
        file.write_bytes(file_bytes(dataset))
        ran = subprocess.run([*tool, file], capture_output=True, text=True, timeout=60, check=False)
        assert ran.returncode == 0, ran.stderr
        assert not ran.stderr.strip()
        return ran.stdout

    return dump
