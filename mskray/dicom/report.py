"""Findings as a Comprehensive SR by TID 1500 "Measurement Report": what an archive stores and a viewer shows as text.

    report = structured_report([radiograph], [group], algorithm)
    Path("report.dcm").write_bytes(file_bytes(report))

A group is a measurement group (TID 1501): its findings' called classes are qualitative evaluations, their probabilities
and thresholds measurements without unit. A member's vote is a measurement too, with the member as its algorithm
(TID 300, TID 4019); the group's own algorithm is the ensemble. A key area is a planar region of interest (TID 1410):
a closed polyline in its source image. Coordinates of SCOORD are ours: the first pixel covers 0 to 1 (PS3.3 C.18.6).
"""

from collections.abc import Iterator, Sequence

import numpy as np
from highdicom import sr
from pydicom import Dataset

from mskray.dicom import concepts
from mskray.dicom.results import NOT_A_DEVICE, Algorithm, Box, Finding, Group
from mskray.dicom.sources import headers, new_uids, settle_characters, uid
from mskray.errors import UserError
from mskray.imaging.quiet import quiet

SERIES_NUMBER = 9701
_DIGITS = 4
"""Of a probability: what lies behind is noise of the batch that it was computed in."""

_Measurements = sr.MeasurementsAndQualitativeEvaluations | sr.PlanarROIMeasurementsAndQualitativeEvaluations


def structured_report(
    sources: Sequence[Dataset],
    groups: Sequence[Group],
    algorithm: Algorithm,
    *,
    comment: str = NOT_A_DEVICE,
    series_number: int = SERIES_NUMBER,
) -> Dataset:
    """A report of all that was found in a radiograph study, a pair or a spine.

    Args:
        sources: the images, as pydicom read them; groups and boxes name them by index. Of a pair that spans two
            studies the report is filed under the study of the last one.
        groups: what is said of each thing, in the order of the report.
        algorithm: the model.
        comment: a sentence for people at the end of the report.
        series_number: of the series of reports within the study.
    Raises:
        UserError: sources do not do (`headers`), there is nothing to report, two groups are about the same, or an index
            or a box lies outside the images.
    """
    images = headers(sources, one_study=False)
    if not groups or not any(group.findings or group.boxes for group in groups):
        raise UserError("nothing to report: give at least one finding")
    names = [group.about for group in groups]
    if len(set(names)) != len(names):
        raise UserError("two groups of findings are about the same: give each thing its own name")
    series, instance = new_uids("report", images[::-1], algorithm, *_facts(groups), comment)
    measured = [part for group in groups for part in _measured(group, images, algorithm)]
    with quiet("highdicom", "pydicom"):
        content = sr.MeasurementReport(
            observation_context=_observer(algorithm),
            procedure_reported=concepts.coded(concepts.PROCEDURES.get(images[-1].Modality, concepts.IMAGING)),
            imaging_measurements=measured,
            title=sr.CodedConcept("126000", "DCM", "Imaging Measurement Report"),
        )
        content[0].ContentSequence.append(_comment(comment))
        made = sr.ComprehensiveSR(
            evidence=images[::-1],  # the first one's study is the report's
            content=content[0],
            series_instance_uid=series,
            series_number=series_number,
            sop_instance_uid=instance,
            instance_number=1,
            **algorithm.equipment(),
            series_description="mskray findings",
            is_complete=True,
            is_final=False,
            is_verified=False,
            coding_schemes=[concepts.scheme()],
        )
    return settle_characters(made)


def _observer(algorithm: Algorithm) -> sr.ObservationContext:
    """The software as the one who observed (TID 1002, 1004)."""
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=uid("device", *algorithm.identity),
        name=algorithm.name,
        manufacturer_name=algorithm.manufacturer,
        model_name="mskray",
        serial_number=algorithm.hash or None,
    )
    kind = sr.CodedConcept("121007", "DCM", "Device")
    return sr.ObservationContext(observer_device_context=sr.ObserverContext(kind, device))


def _identification(algorithm: Algorithm) -> sr.AlgorithmIdentification:
    settings = [f"{key}={value}" for key, value in algorithm.settings.items()]
    return sr.AlgorithmIdentification(
        name=algorithm.name,
        version=algorithm.version,
        parameters=settings or None,
        manufacturer=algorithm.manufacturer,
    )


def _measured(group: Group, images: Sequence[Dataset], algorithm: Algorithm) -> Iterator[_Measurements]:
    """The group's own measurement group, and one for each of its key areas."""
    seen = _chosen(group, images)
    sites = _sites(group, seen)
    task = concepts.task_concept(group.findings[0].task) if len(group.findings) == 1 else None
    if group.findings:
        own = sr.MeasurementsAndQualitativeEvaluations(
            tracking_identifier=_tracking(group.about, images, algorithm),
            finding_type=task,
            algorithm_id=_identification(algorithm),
            finding_sites=sites,
            measurements=[each for finding in group.findings for each in _numbers(finding, algorithm)],
            qualitative_evaluations=[
                sr.QualitativeEvaluation(
                    concepts.task_concept(finding.task), concepts.class_concept(finding.task, finding.label)
                )
                for finding in group.findings
            ],
            source_images=[
                sr.SourceImageForMeasurementGroup(image.SOPClassUID, image.SOPInstanceUID) for image in seen
            ],
        )
        for note in group.notes:
            own[0].ContentSequence.append(_comment(note))
        yield own
    for number, box in enumerate(group.boxes, start=1):
        yield _region(f"{group.about}, key area {number}", box, images, algorithm, sites)


def _region(
    name: str, box: Box, images: Sequence[Dataset], algorithm: Algorithm, sites: list[sr.FindingSite]
) -> sr.PlanarROIMeasurementsAndQualitativeEvaluations:
    """A key area."""
    image = image_of(box, images)
    right, bottom = box.x + box.width, box.y + box.height
    corners = np.array([(box.x, box.y), (right, box.y), (right, bottom), (box.x, bottom), (box.x, box.y)])
    score = [] if box.score is None else [_number(concepts.coded(concepts.SALIENCY), box.score)]
    return sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(name, images, algorithm),
        referenced_region=sr.ImageRegion(
            sr.GraphicTypeValues.POLYLINE,
            corners,
            sr.SourceImageForRegion(image.SOPClassUID, image.SOPInstanceUID),
        ),
        finding_type=concepts.coded(concepts.KEY_AREA),
        algorithm_id=_identification(algorithm),
        finding_sites=sites,
        measurements=score,
    )


def image_of(box: Box, images: Sequence[Dataset]) -> Dataset:
    """The header of the image that a box lies in. Raises UserError where it does not lie in it."""
    if not 0 <= box.image < len(images):
        raise UserError(f"a box names image {box.image}, and there are {len(images)}: count from 0")
    image = images[box.image]
    if box.x < 0 or box.y < 0 or box.x + box.width > image.Columns or box.y + box.height > image.Rows:
        raise UserError(
            f"a box of {box.width:g} × {box.height:g} px at ({box.x:g}, {box.y:g}) does not lie in its image of "
            f"{image.Columns} × {image.Rows} px"
        )
    return image


def _chosen(group: Group, images: Sequence[Dataset]) -> list[Dataset]:
    """The headers of the images that a group is about."""
    for index in group.images:
        if not 0 <= index < len(images):
            raise UserError(f"{group.about} names image {index}, and there are {len(images)}: count from 0")
    return [images[index] for index in group.images] or list(images)


def _sites(group: Group, images: Sequence[Dataset]) -> list[sr.FindingSite]:
    """Where in the body: a disc's level, else the body part of the images where they agree on one that has a code."""
    if group.level:
        if group.level not in concepts.DISC_SITES:
            raise UserError(f"no disc is called {group.level!r}: known are {', '.join(concepts.DISC_SITES)}")
        return [sr.FindingSite(concepts.coded(concepts.DISC_SITES[group.level]))]
    parts = {str(image.get("BodyPartExamined", "")).upper() for image in images}
    sides = {str(image.get("ImageLaterality") or image.get("Laterality") or "") for image in images}
    part = concepts.BODY_PARTS.get(parts.pop()) if len(parts) == 1 else None
    side = concepts.LATERALITIES.get(sides.pop()) if len(sides) == 1 else None
    return [sr.FindingSite(concepts.coded(part), concepts.coded(side) if side else None)] if part else []


def _numbers(finding: Finding, algorithm: Algorithm) -> Iterator[sr.Measurement]:
    """The ensemble's probabilities and threshold, then each member's votes."""
    for label, value in finding.probabilities.items():
        yield _number(concepts.probability_concept(finding.task, label), value)
    if finding.threshold is not None:
        yield _number(concepts.coded(concepts.THRESHOLD), finding.threshold)
    known = {member.name: member for member in algorithm.members}
    for name, votes in finding.votes.items():
        if name not in known:
            raise UserError(f"{name!r} votes on {finding.task} and is no member of {algorithm.name}")
        for label, value in votes.items():
            yield _number(concepts.probability_concept(finding.task, label), value, known[name])


def _number(name: sr.CodedConcept, value: float, by: Algorithm | None = None) -> sr.Measurement:
    return sr.Measurement(
        name=name,
        value=round(float(value), _DIGITS),
        unit=concepts.coded(concepts.NO_UNITS),
        algorithm_id=_identification(by) if by else None,
    )


def _tracking(name: str, images: Sequence[Dataset], algorithm: Algorithm) -> sr.TrackingIdentifier:
    known = uid("tracking", name, *(image.SOPInstanceUID for image in images), *algorithm.identity)
    return sr.TrackingIdentifier(uid=known, identifier=name)


def _comment(text: str) -> sr.TextContentItem:
    return sr.TextContentItem(
        name=concepts.coded(concepts.COMMENT), value=text, relationship_type=sr.RelationshipTypeValues.CONTAINS
    )


def _facts(groups: Sequence[Group]) -> Iterator[str]:
    """What is reported, as it is written: of numbers the digits that are."""
    for group in groups:
        yield repr((group.about, [int(index) for index in group.images], group.level, list(group.notes)))
        for box in group.boxes:
            numbers = (box.image, box.x, box.y, box.width, box.height, -1 if box.score is None else box.score)
            yield repr([round(float(number), _DIGITS) for number in numbers])
        for finding in group.findings:
            yield repr((finding.task, finding.label, finding.threshold and float(finding.threshold)))
            for whose, shares in (("", finding.probabilities), *finding.votes.items()):
                yield repr((whose, [(name, round(float(value), _DIGITS)) for name, value in shares.items()]))
