"""Answers of a server on spines and pairs as DICOM: valid, on the right slices, where the disc is."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from block_spine import BlockSpine
from dicom_sources import multi_frame, radiograph, slices
from PIL import Image
from pydicom import Dataset
from small_spinenet import fitted, recipe
from spine_run import vertebra_bundle

from mskray.bundles import save_bundle
from mskray.dicom.concepts import DISC_SITES, VERTEBRAE
from mskray.errors import UserError
from mskray.families.vertebra_detector import VertebraDetectorConfig
from mskray.families.vertebra_finding import Spine
from mskray.imaging.spine import FoundVertebra
from mskray.serving.schemas.common import Doubt, MemberName, ModelName
from mskray.serving.schemas.models import MemberInfo, Models
from mskray.serving.schemas.pairs import PairAnswer, PairImage, PairResult
from mskray.serving.schemas.spines import SpineAnswer, SpineReading
from mskray.serving.spines import SpineReader
from mskray.storage import locate
from mskray.verbs.dicomweb_pairs import pair_results
from mskray.verbs.dicomweb_spines import spine_results

SMALL = {"network": {"backbone": "mobilenet_v3_small", "weights": "none", "channels": 8}, "data": {"image_size": 64}}
SPINE = BlockSpine(("L3", "L4", "L5"), tilt=15, shape=(9, 200, 160), middle=3, spacing=(4.0, 0.7, 0.9))
LEVELS, TASKS = ("L3/L4", "L4/L5"), ("side", "type")


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> SpineReader:
    place = tmp_path_factory.mktemp("spines")
    save_bundle(fitted(recipe()), locate(place / "grader"), "f00")
    vertebra_bundle(place / "detector", VertebraDetectorConfig.model_validate(SMALL))
    return SpineReader(str(place / "grader"), str(place / "detector"))


@pytest.fixture(scope="module")
def models(reader: SpineReader) -> Models:
    spines, members = reader.described
    return Models(served=["spines"], ensemble=None, pairs=None, spines=spines, members=members, rollout=None)


@pytest.fixture(scope="module")
def answered(reader: SpineReader) -> tuple[SpineAnswer, dict[str, bytes]]:
    """The answer on SPINE, and the pictures that it names."""
    bodies = [FoundVertebra(each.level, each.slice, each.corners, 0.9) for each in SPINE.vertebrae.values()]
    *_, reading = reader.read_known(SPINE.volume, Spine(tuple(bodies[::-1]), ("a note",)), 1)
    assert isinstance(reading, SpineReading)
    pictures, named = {}, {}
    for each in reading.hotspots:
        names = [f"/v1/results/1/{each.level}-{each.task}-{place}.png" for place in range(len(each.pixels))]
        named[each.level, each.task] = names
        for name, pixels in zip(names, each.pixels, strict=True):
            target = io.BytesIO()
            Image.fromarray(pixels).save(target, format="PNG")
            pictures[name] = target.getvalue()
    discs = [
        disc.model_copy(
            update={
                "grades": {
                    task: grade.model_copy(update={"hotspots": named[disc.level, task]})
                    for task, grade in disc.grades.items()
                }
            }
        )
        for disc in reading.discs
    ]
    facts = {"volume": reading.volume, "bodies": reading.bodies, "warnings": reading.warnings, "model": reading.model}
    return SpineAnswer(request_id=None, discs=discs, **facts), pictures


@pytest.fixture(scope="module")
def sent() -> list[Dataset]:
    """The slices, from left to right, as an archive may list them."""
    return slices(np.rint(SPINE.volume.pixels).astype(np.uint16), SPINE.volume.affine)[::-1]


@pytest.fixture(scope="module")
def made(answered: tuple[SpineAnswer, dict[str, bytes]], sent: list[Dataset], models: Models) -> list[Dataset]:
    return spine_results(sent, *answered, models)


def test_there_is_a_report_a_segmentation_and_a_map_for_each_grade(made: list[Dataset]) -> None:
    assert [each.Modality for each in made] == ["SR", "SEG"] + ["OT"] * 4
    names = [each.DerivationDescription.split(".")[0].split()[:2] for each in made[2:]]
    assert names == [[level, task] for level in LEVELS for task in TASKS]
    assert len({each.SOPInstanceUID for each in made}) == len(made)


@pytest.mark.system("dciodvfy")
def test_dciodvfy_finds_no_error(made: list[Dataset], judged: Callable[[Dataset], list[str]]) -> None:
    assert [judged(each) for each in made] == [[]] * len(made)


def test_a_group_of_the_report_is_about_each_disc_and_the_slices_that_show_it(
    made: list[Dataset], sent: list[Dataset]
) -> None:
    report = made[0]
    sites, images, comments = [], [], []

    def look(item: Dataset, element: object) -> None:
        concept = item.get("ConceptNameCodeSequence")
        meaning = concept[0].CodeMeaning if concept else ""
        if meaning == "Finding Site":
            sites.append(item.ConceptCodeSequence[0].CodeValue)
        if meaning == "Comment" and item.get("TextValue") not in comments:
            comments.append(item.TextValue)

    report.walk(look)
    assert list(dict.fromkeys(sites)) == [DISC_SITES[level].value for level in LEVELS]
    assert len(comments) == 1
    assert comments[0].endswith("a note.")
    for reference in report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence:
        images += [each.ReferencedSOPInstanceUID for each in reference.ReferencedSOPSequence]
    assert set(images) == {each.SOPInstanceUID for each in sent}


def test_bodies_are_outlined_in_their_middle_slice(made: list[Dataset], sent: list[Dataset]) -> None:
    found = made[1]
    assert [each.SegmentLabel for each in found.SegmentSequence] == [f"{level}, middle slice" for level in SPINE.levels]
    kinds = [each.SegmentedPropertyTypeCodeSequence[0].CodeValue for each in found.SegmentSequence]
    assert kinds == [VERTEBRAE[level].value for level in SPINE.levels]
    frames = found.pixel_array.reshape(-1, found.Rows, found.Columns)
    middle = next(each for each in sent if each.InstanceNumber == SPINE.middle + 1)
    assert len(frames) == len(SPINE.levels)
    for groups, frame in zip(found.PerFrameFunctionalGroupsSequence, frames, strict=True):
        level = SPINE.levels[groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber - 1]
        np.testing.assert_allclose(
            groups.PlanePositionSequence[0].ImagePositionPatient, middle.ImagePositionPatient, atol=1e-3
        )
        true = SPINE.bodies[level][SPINE.middle]
        assert (true & (frame > 0)).sum() / (true | (frame > 0)).sum() > 0.9


def test_maps_lie_on_their_discs(made: list[Dataset], answered: tuple[SpineAnswer, dict[str, bytes]]) -> None:
    for each in made[2:]:
        level = each.DerivationDescription.split()[0]
        place = np.argwhere(SPINE.discs[level.partition("/")[0]]).mean(axis=0)
        disc = (SPINE.volume.affine @ [place[2], place[1], SPINE.middle, 1])[:3]
        shared = each.SharedFunctionalGroupsSequence[0]
        axes = np.reshape([float(v) for v in shared.PlaneOrientationSequence[0].ImageOrientationPatient], (2, 3))
        down, along = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
        # Pictures of slices 2, 3 and 4: the second is of the middle one.
        corner = each.PerFrameFunctionalGroupsSequence[1].PlanePositionSequence[0].ImagePositionPatient
        middle = (
            np.array(corner, float) + axes[0] * along * (each.Columns - 1) / 2 + axes[1] * down * (each.Rows - 1) / 2
        )
        np.testing.assert_allclose(middle, disc, atol=0.3)
        values = np.frombuffer(each.FloatPixelData, np.float32)
        assert (values.min(), values.max()) == (0, 1)
    assert answered[0].discs[0].placement.slices == [2, 3, 4]


@pytest.mark.system("dciodvfy")
def test_frames_of_one_object_are_marked_where_its_slices_are(
    made: list[Dataset],
    answered: tuple[SpineAnswer, dict[str, bytes]],
    sent: list[Dataset],
    models: Models,
    judged: Callable[[Dataset], list[str]],
) -> None:
    again = spine_results([multi_frame(sent)], *answered, models)
    assert [judged(each) for each in again[:3]] == [[]] * 3
    np.testing.assert_array_equal(again[1].pixel_array, made[1].pixel_array)
    middle = next(place for place, each in enumerate(sent, start=1) if each.InstanceNumber == SPINE.middle + 1)
    for frame in again[1].PerFrameFunctionalGroupsSequence:
        source = frame.DerivationImageSequence[0].SourceImageSequence[0]
        assert source.ReferencedFrameNumber == middle
    assert again[2].FloatPixelData == made[2].FloatPixelData


def test_what_does_not_fit_is_one_line(
    answered: tuple[SpineAnswer, dict[str, bytes]], sent: list[Dataset], models: Models
) -> None:
    answer, pictures = answered
    nothing = answer.model_copy(update={"discs": []})
    cases = [
        (sent[:-1], answer, pictures, models, "hold 0 sagittal volumes of 9 × 200 × 160 voxels"),
        (sent, nothing, pictures, models, r"no disc could be graded \(a note\)"),
        (sent, answer, dict.fromkeys(pictures, b"x"), models, "L3/L4 side: its hotspots are not the pictures"),
        (sent, answer, pictures, models.model_copy(update={"spines": None}), "no spines: ask another one"),
    ]
    for images, said, files, served, message in cases:
        with pytest.raises(UserError, match=message) as caught:
            spine_results(images, said, files, served)
        assert "\n" not in str(caught.value)
    assert len(spine_results(sent, answer, {}, models)) == 2  # pictures that are kept no longer make no map


@pytest.mark.system("dciodvfy")
@pytest.mark.parametrize("studies", ["one study", "two studies"])
def test_a_pair_is_a_report_on_both_images(
    studies: str, judged: Callable[[Dataset], list[str]], tmp_path: Path
) -> None:
    changed = {"StudyInstanceUID": "1.2.840.1", "StudyDate": "20190102"} if studies == "two studies" else {}
    before, after = radiograph(name="before", **changed), radiograph(name="after")
    shares = {"regressed": 0.2, "persisted": 0.7, "improved": 0.1}
    members = [
        MemberInfo(
            serves=serves,
            name="words",
            family="pair_bovw",
            task="change",
            classes=list(shares),
            body_parts=[],
            metrics={},
            hash="ab" * 32,
            cohort_hash="",
            weight=1.0,
            card="",
        )
        for serves in ("pairs", "studies")
    ]
    models = Models(served=["studies", "pairs"], ensemble=None, pairs=None, spines=None, members=members, rollout=None)
    image = PairImage(name=None, format="dicom", rows=60, columns=48)
    answer = PairAnswer(
        request_id=None,
        pair=PairResult(probabilities=shares, label="persisted", threshold=None),
        members={"words": shares},
        before=image,
        after=image,
        warnings=[Doubt(code="too-dark", views=[0], message="nearly black")],
        model=ModelName(
            name="knees",
            hash="cd" * 32,
            task="change",
            calibrated=False,
            members=[MemberName(name="words", hash="ab" * 32)],
        ),
    )
    (report,) = pair_results(before, after, answer, models)
    assert judged(report) == []
    assert report.StudyInstanceUID == after.StudyInstanceUID
    said = str(report)
    assert "nearly black" in said
    assert "change:persisted" in said
    for each in (before, after):
        assert each.SOPInstanceUID in said
