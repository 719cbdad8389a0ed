"""`mskray evaluate` of a flag detector: its boxes on a held-out split against those of the cohort."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from mskray import cluster
from mskray.bundles import DESCRIPTION, read_description
from mskray.cohorts import Cohort, open_cohort
from mskray.cohorts.reach import check_everywhere
from mskray.errors import UserError
from mskray.evaluation.detection import DetectionFigures, ImageBoxes, detection_figures
from mskray.evaluation.places import evaluation_folder
from mskray.evaluation.result import check_resamples
from mskray.families.flag_removal import FAMILY, KINDS, load_flag_detector
from mskray.prediction.shards import over_shards, share_machine
from mskray.progress import Progress, Report, silent
from mskray.storage import Location, check_access, locate
from mskray.storage.tables import parquet_bytes

DETECTION, DETECTIONS = "detection.json", "detections.parquet"
SCHEMA_VERSION = 1
_BATCH = 32


def is_detector(model: str) -> bool:
    """Whether a URI is that of a flag detector's bundle."""
    location = locate(model)
    return location.join(DESCRIPTION).is_file() and read_description(location).family == FAMILY


def evaluate_detector(
    model: str,
    cohort_uri: str,
    split: str,
    out: str | None = None,
    *,
    workers: int = 1,
    gpu: bool = False,
    resamples: int = 1000,
    report: Report = silent,
) -> tuple[list[DetectionFigures], Location]:
    """Find flags and implants on a split and write `detection.json` and `detections.parquet`.

    Args:
        model: URI of a flag detector's bundle.
        out: folder of both; `evaluation/<split>-<first 8 digits of the cohort's hash>` in the bundle's when None.
    Returns:
        The figures of each kind and the folder.
    Raises:
        UserError: before any work, when bundle, cohort, split or `out` does not do.
    """
    location = locate(model)
    check_resamples(resamples)
    for place in (location, locate(cohort_uri)):
        check_access(place)
    _, predictor = load_flag_detector(location)
    cohort = open_cohort(cohort_uri)
    known = cohort.columns(split, ["findings"])["findings"]  # an unknown split is refused here
    if not any(each["kind"] in KINDS for findings in known for each in findings or ()):
        raise UserError(
            f"cohort {cohort.location}, split {split}, has no boxes of {' or '.join(KINDS)} to compare with"
        )
    target = locate(out) if out else evaluation_folder(location, cohort, split)
    check_access(target, write=True)
    with cluster.session():
        check_everywhere([location, cohort.location])
        rows = _detect(str(location), cohort, split, workers, gpu, report)
    report(Progress("computing figures and intervals"))
    least = {"flag": predictor.removal.flag_score, "implant": predictor.removal.implant_score}
    figures = [detection_figures(_of_kind(rows, kind), kind, least[kind], resamples) for kind in KINDS]
    target.join(DETECTIONS).write_bytes(parquet_bytes(pa.Table.from_pylist(rows)))
    target.join(DETECTION).write_json(
        {
            "schema_version": SCHEMA_VERSION,
            "model": str(location),
            "cohort": {
                "uri": str(cohort.location),
                "content_hash": cohort.content_hash,
                "source": cohort.manifest.source,
            },
            "split": split,
            "resamples": resamples,
            "kinds": [asdict(figure) for figure in figures],
        }
    )
    return figures, target


def detection_lines(figures: Sequence[DetectionFigures]) -> str:
    """Return the figures as text, one line a kind."""
    lines = []
    for each in figures:
        words = [f"{each.kind:8} {each.images:,} images, {each.figures['ap50'].n:,} boxes"]
        for name, figure in each.figures.items():
            at = "" if name == "ap50" else f" at {each.threshold:g}"
            known = figure.value is not None
            words.append(
                f"{name}{at} {figure.value:.3f} ({figure.low:.3f} to {figure.high:.3f})" if known else f"{name} -"
            )
        lines.append("  ".join(words))
    return "\n".join(lines)


def _detect(model: str, cohort: Cohort, split: str, workers: int, gpu: bool, report: Report) -> list[dict[str, Any]]:
    """One row an image: instance_id, patient_id, and `found` and `true` boxes as lists of mappings."""
    report(Progress("loading the detector"))
    rows: list[dict[str, Any]] = []
    arguments, count = (model, cohort, split, workers, gpu), len(cohort.shards(split))
    for row in over_shards("detection", _Finder, arguments, count, workers, gpu):
        rows += json.loads(row["rows"])
        report(Progress("detect", len(rows), cohort.count(split)))
    return sorted(rows, key=lambda row: row["instance_id"])


class _Finder:
    """One loaded detector in a Ray Data actor."""

    def __init__(self, model: str, cohort: Cohort, split: str, workers: int, gpu: bool) -> None:
        share_machine(workers)
        self._cohort, self._split = cohort, split
        _, self._detector = load_flag_detector(model, "cuda" if gpu else "cpu")

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, list[str]]:
        shards = self._cohort.shards(self._split)
        return {"rows": [json.dumps(self._rows(shards[int(place)])) for place in batch["place"]]}

    def _rows(self, shard: Any) -> list[dict[str, Any]]:
        data = self._cohort.read_shard(shard, ["image", "instance_id", "patient_id", "findings"])
        rows = []
        for start in range(0, shard.rows, _BATCH):
            for place, found in enumerate(self._detector.detect(list(data["image"][start : start + _BATCH])), start):
                boxes = [
                    {"kind": str(kind), "score": float(score), **dict(zip("xywh", map(float, box), strict=True))}
                    for kind, score, box in zip(found.kinds, found.scores, found.boxes, strict=True)
                ]
                true = [dict(each) for each in data["findings"][place] if each["kind"] in KINDS]
                names = {name: data[name][place] for name in ("instance_id", "patient_id")}
                rows.append({**names, "found": boxes, "true": true})
        return rows


def _of_kind(rows: Sequence[Mapping[str, Any]], kind: str) -> list[ImageBoxes]:
    def boxes(values: Sequence[Mapping[str, Any]]) -> np.ndarray:
        return np.array([[each[name] for name in "xywh"] for each in values], np.float64).reshape(-1, 4)

    images = []
    for row in rows:
        found = [each for each in row["found"] if each["kind"] == kind]
        true = [each for each in row["true"] if each["kind"] == kind]
        scores = np.array([each["score"] for each in found], np.float64)
        images.append(ImageBoxes(row["patient_id"], boxes(found), scores, boxes(true)))
    return images
