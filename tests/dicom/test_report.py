"""A report read back from its bytes says what was put in: classes, probabilities, votes, boxes and who said so."""

from io import BytesIO

import numpy as np
import pytest
from dicom_sources import ALGORITHM, KNEE_FINDING, radiograph
from highdicom.sr import ComprehensiveSR
from pydicom import Dataset, dcmread
from pydicom.sr.coding import Code

from mskray.dicom import NOT_A_DEVICE, Algorithm, Box, Finding, Group, file_bytes, structured_report
from mskray.dicom.concepts import DISC_SITES, PROBABILITY_PREFIX, SCHEME, THRESHOLD
from mskray.errors import UserError
from mskray.imaging.spine import DISCS, SPINE_TASKS


def read(report: Dataset) -> ComprehensiveSR:
    return ComprehensiveSR.from_dataset(dcmread(BytesIO(file_bytes(report))))


def items(group, name: str) -> list[Dataset]:
    """The items of a measurement group of a concept."""
    return [item for item in group[0].ContentSequence if item.ConceptNameCodeSequence[0].CodeMeaning == name]


def test_a_finding_reads_back(made, knee):
    content = read(made["report of a study"]).content
    (group,) = content.get_image_measurement_groups()
    assert group.tracking_identifier == "image 1"
    assert group.finding_type == Code("C9440", "NCIt", "Abnormality")
    assert group.finding_sites[0].value == Code("72696002", "SCT", "Knee")
    assert group.finding_sites[0].laterality == Code("7771000", "SCT", "Left")
    assert [image.referenced_sop_instance_uid for image in group.source_images] == [knee.SOPInstanceUID]
    (called,) = group.get_qualitative_evaluations(Code("C9440", "NCIt", "Abnormality"))
    assert called.value == Code("263654008", "SCT", "Abnormal")
    (threshold,) = group.get_measurements(THRESHOLD)
    assert (threshold.value, threshold.unit) == (0.5, Code("1", "UCUM", "no units"))


def test_the_ensembles_probability_and_each_members_vote_are_told_apart(made):
    (group,) = read(made["report of a study"]).content.get_image_measurement_groups()
    found = {}
    for item in items(group, "Probability of abnormality: abnormal"):
        inner = [each.TextValue for each in item.get("ContentSequence", ()) if each.ValueType == "TEXT"]
        found[inner[0] if inner else ""] = float(item.MeasuredValueSequence[0].NumericValue)
        if inner:
            assert any(text.startswith("hash=") for text in inner)
    assert found == {"": 0.82, "densenet169": 0.8, "mobilenet_v2": 0.6877}


def test_the_model_is_named_with_its_hash(made):
    (group,) = read(made["report of a study"]).content.get_image_measurement_groups()
    said = {each.ConceptNameCodeSequence[0].CodeMeaning: each for each in group[0].ContentSequence}
    assert said["Algorithm Name"].TextValue == "knees"
    assert said["Algorithm Version"].TextValue == "0.1.0"
    parameters = [each.TextValue for each in items(group, "Algorithm Parameters")]
    assert parameters == [f"hash={'5f' * 32}", "threshold=0.5"]
    (context,) = read(made["report of a study"]).content.get_observer_contexts()
    assert context.observer_identifying_attributes.name == "knees"
    assert context.observer_identifying_attributes.serial_number == "5f" * 32


def test_a_key_area_is_a_closed_polyline_in_its_image(made, knee):
    (group,) = read(made["report of a study"]).content.get_planar_roi_measurement_groups()
    region = group.roi
    assert region.graphic_type.value == "POLYLINE"
    expected = [(3.5, 4), (13.5, 4), (13.5, 16.25), (3.5, 16.25), (3.5, 4)]
    np.testing.assert_allclose(region.value, expected)
    image = region.ContentSequence[0].ReferencedSOPSequence[0]
    assert image.ReferencedSOPInstanceUID == knee.SOPInstanceUID
    assert [each.value for each in group.get_measurements()] == [0.9]


def test_notes_and_the_warning_are_in_the_report(made):
    report = dcmread(BytesIO(file_bytes(made["report of a study"])))
    texts = [element.value for element in report.iterall() if element.keyword == "TextValue"]
    assert "Not trained on knees." in texts
    assert NOT_A_DEVICE in texts
    assert (report.CompletionFlag, report.VerificationFlag, report.PreliminaryFlag) == (
        "COMPLETE",
        "UNVERIFIED",
        "PRELIMINARY",
    )


def test_a_spine_has_a_group_for_each_disc_with_six_grades(made, discs):
    groups = read(made["report of a spine"]).content.get_image_measurement_groups()
    assert [group.tracking_identifier for group in groups] == list(DISCS)
    for group, given in zip(groups, discs, strict=True):
        assert [site.value for site in group.finding_sites] == [DISC_SITES[given.level]]
        assert len(group.get_qualitative_evaluations()) == len(SPINE_TASKS)
        pfirrmann = given.findings[0]
        (called,) = group.get_qualitative_evaluations(Code("pfirrmann", SCHEME, "Pfirrmann"))
        assert called.value.value == f"pfirrmann:{pfirrmann.label}"
        for label, share in pfirrmann.probabilities.items():
            (number,) = group.get_measurements(Code(f"{PROBABILITY_PREFIX}pfirrmann:{label}", SCHEME, "Probability"))
            assert number.value == pytest.approx(share, abs=1e-4)


def test_discs_have_snomeds_codes():
    assert {level: code.value for level, code in DISC_SITES.items()} == {
        "T12/L1": "76206002",
        "L1/L2": "80064006",
        "L2/L3": "67459009",
        "L3/L4": "62551000",
        "L4/L5": "84020006",
        "L5/S1": "715056000",
    }
    from pydicom.sr._concepts_dict import concepts

    known = {code: meaning for each in concepts["SCT"].values() for code, (meaning, _) in each.items()}
    assert all(
        f"{level} disc" in known[code.value] or "L5 and S1" in known[code.value] for level, code in DISC_SITES.items()
    )


def test_a_pair_is_filed_under_the_later_study_and_refers_to_both(made, knee):
    report = read(made["report of a pair"])
    assert report.StudyInstanceUID == knee.StudyInstanceUID
    evidence = {study for study, *_ in report.get_evidence()}
    assert evidence == {knee.StudyInstanceUID, "1.2.840.1"}
    (group,) = report.content.get_image_measurement_groups()
    assert len(group.source_images) == 2


@pytest.mark.system("dsrdump")
@pytest.mark.parametrize("kind", ["report of a study", "report of a pair", "report of a spine"])
def test_dsrdump_reads_it(made, dumped, kind):
    said = dumped(made[kind], "dsrdump", "+Pl")
    assert "Imaging Measurement Report" in said
    assert NOT_A_DEVICE in said


def test_names_beyond_ascii_survive():
    source = radiograph(SpecificCharacterSet=["", "ISO 2022 IR 87"], PatientName="Yamada^Tarou=山田^太郎")
    model = Algorithm("Knie-Größe", "1")
    report = structured_report([source], [Group("image", (Finding("x", "a", {"a": 1.0}),))], model)
    back = dcmread(BytesIO(file_bytes(report)))
    assert back.PatientName == "Yamada^Tarou=山田^太郎"
    assert "Knie-Größe" in [element.value for element in back.iterall() if element.keyword == "TextValue"]


def test_the_same_result_is_the_same_object(knee):
    def one(share=0.82, label="abnormal", model=ALGORITHM, source=knee):
        finding = Finding("abnormality", label, {"normal": 1 - share, "abnormal": share}, 0.5)
        return structured_report([source], [Group("image 1", (finding,), boxes=(Box(1, 1, 3, 3),))], model)

    first = one()
    for again in (one(), one(share=np.float32(0.82)), one(share=0.82 + 1e-7)):
        assert (again.SOPInstanceUID, again.SeriesInstanceUID) == (first.SOPInstanceUID, first.SeriesInstanceUID)
    others = [
        one(share=0.83),
        one(label="normal"),
        one(model=Algorithm("knees", "0.1.0", "00")),
        one(source=radiograph(name="2")),
    ]
    assert len({str(each.SOPInstanceUID) for each in (first, *others)}) == 5

    def unstable(report):
        return [str(each.value) for each in report.iterall() if each.VR == "UI"]

    assert unstable(first) == unstable(one())


@pytest.mark.parametrize(
    ("sources", "groups", "line"),
    [
        ([], [Group("a", (KNEE_FINDING,))], "no source image"),
        ([radiograph()], [], "nothing to report"),
        ([radiograph()], [Group("a", ())], "nothing to report"),
        ([radiograph()], [Group("a", (KNEE_FINDING,))] * 2, "two groups of findings are about the same"),
        ([radiograph()], [Group("a", (KNEE_FINDING,), (1,))], "a names image 1, and there are 1"),
        ([radiograph()], [Group("a", (), boxes=(Box(0, 0, 49, 2),))], "does not lie in its image of 48 × 60 px"),
        ([radiograph()], [Group("a", (), boxes=(Box(0, 0, 4, 2, image=3),))], "a box names image 3"),
        ([radiograph()], [Group("a", (KNEE_FINDING,), level="L7/L8")], "no disc is called 'L7/L8'"),
        ([radiograph(), radiograph()], [Group("a", (KNEE_FINDING,))], "the same source image is given twice"),
        (
            [radiograph(), radiograph(name="2", PatientID="other")],
            [Group("a", (KNEE_FINDING,))],
            "several patients",
        ),
        ([radiograph(SOPInstanceUID=None)], [Group("a", (KNEE_FINDING,))], "it has no SOPInstanceUID"),
        ([radiograph(StudyInstanceUID=None)], [Group("a", (KNEE_FINDING,))], "it has no StudyInstanceUID"),
        ([radiograph(SOPClassUID="1.2.3.4")], [Group("a", (KNEE_FINDING,))], "objects of the SOP class 1.2.3.4"),
        ([radiograph(Rows=None)], [Group("a", (KNEE_FINDING,))], "is no image"),
    ],
)
def test_a_wrong_report_is_one_line(sources, groups, line):
    with pytest.raises(UserError, match=line):
        structured_report(sources, groups, ALGORITHM)


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: Finding("t", "b", {"a": 1.0}), "'b' is called"),
        (lambda: Finding("t", "a", {"a": 1.2}), "must lie between 0 and 1"),
        (lambda: Finding("t", "a", {"a": float("nan")}), "must lie between 0 and 1"),
        (lambda: Finding("t", "a", {"a": 1.0}, 2.0), "the threshold of t is 2.0"),
        (lambda: Finding("t", "a", {"a": 1.0}, votes={"m": {"z": 0.1}}), "m votes on 'z'"),
        (lambda: Group("", (KNEE_FINDING,)), "does not say what it is about"),
        (lambda: Group("a", (KNEE_FINDING, KNEE_FINDING)), "the same question is answered twice"),
        (lambda: Box(0, 0, 0, 1), "a box without area"),
        (lambda: Box(float("inf"), 0, 1, 1), "no numbers"),
        (lambda: Algorithm("", "1"), "without a name or version"),
        (lambda: Algorithm("a", "1", members=(Algorithm("m", "1"),) * 2), "have the same name"),
        (
            lambda: structured_report([radiograph()], [Group("a", (KNEE_FINDING,))], Algorithm("a", "1")),
            "'densenet169' votes on abnormality and is no member of a",
        ),
    ],
)
def test_a_wrong_result_is_one_line(make, line):
    with pytest.raises(UserError, match=line):
        make()
