"""`mskray evaluate` of a vertebra detector: its bodies on a held-out split against those of the cohort."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from mskray import cluster
from mskray.bundles import DESCRIPTION, read_description
from mskray.cohorts import Cohort, open_cohort
from mskray.cohorts.reach import check_everywhere
from mskray.errors import UserError
from mskray.evaluation.places import evaluation_folder
from mskray.evaluation.result import check_resamples
from mskray.evaluation.vertebrae import Bodies, SpineResult, VertebraFigures, vertebra_figures
from mskray.families.vertebra_finding import FAMILY, VertebraPredictor, load_vertebra_detector
from mskray.prediction.shards import over_shards, share_machine
from mskray.progress import Progress, Report, silent
from mskray.storage import Location, check_access, locate
from mskray.storage.tables import parquet_bytes
from mskray.training.spine_samples import corners_of

FIGURES, FOUND = "vertebrae.json", "vertebrae.parquet"
SCHEMA_VERSION = 1
_COLUMNS = [
    "image",
    "instance_id",
    "patient_id",
    "vertebrae",
    "row_spacing_mm",
    "column_spacing_mm",
    "scale_x",
    "scale_y",
]


def is_vertebra_detector(model: str) -> bool:
    """Whether a URI is that of a vertebra detector's bundle."""
    location = locate(model)
    return location.join(DESCRIPTION).is_file() and read_description(location).family == FAMILY


def evaluate_vertebrae(
    model: str,
    cohort_uri: str,
    split: str,
    out: str | None = None,
    *,
    workers: int = 1,
    gpu: bool = False,
    resamples: int = 1000,
    report: Report = silent,
) -> tuple[VertebraFigures, Location]:
    """Find vertebral bodies on a split and write `vertebrae.json` and `vertebrae.parquet`.

    Args:
        model: URI of a vertebra detector's bundle.
        out: folder of both; `evaluation/<split>-<first 8 digits of the cohort's hash>` in the bundle's when None.
    Returns:
        The figures and the folder.
    Raises:
        UserError: before any work, when bundle, cohort, split or `out` does not do.
    """
    location = locate(model)
    check_resamples(resamples)
    for place in (location, locate(cohort_uri)):
        check_access(place)
    load_vertebra_detector(location)  # a bundle that does not do is refused here
    cohort = open_cohort(cohort_uri)
    cohort.shards(split)  # and so is an unknown split
    if not cohort.manifest.vertebrae:
        raise UserError(f"cohort {cohort.location} has no corners of vertebral bodies to compare with")
    target = locate(out) if out else evaluation_folder(location, cohort, split)
    check_access(target, write=True)
    with cluster.session():
        check_everywhere([location, cohort.location])
        rows = _find(str(location), cohort, split, workers, gpu, report)
    report(Progress("computing figures and intervals"))
    figures = vertebra_figures([spine_result(row) for row in rows], resamples)
    target.join(FOUND).write_bytes(parquet_bytes(pa.Table.from_pylist(rows)))
    where = {"uri": str(cohort.location), "content_hash": cohort.content_hash, "source": cohort.manifest.source}
    target.join(FIGURES).write_json(
        {
            "schema_version": SCHEMA_VERSION,
            "model": str(location),
            "cohort": where,
            "split": split,
            "resamples": resamples,
            **asdict(figures),
        }
    )
    return figures, target


def vertebra_lines(figures: VertebraFigures) -> str:
    """Return the figures as text, a line each."""
    words = {
        "found": "bodies found",
        "levels": "spines with every name right",
        "corner_mm": "median error of a corner, mm",
        "stray": "stray bodies a volume",
    }
    lines = [f"{figures.spines:,} spines"]
    for name, text in words.items():
        figure = figures.figures[name]
        known = (
            f"{figure.value:.4f} ({figure.low:.4f} to {figure.high:.4f})"
            if figure.value is not None
            else f"- ({figure.reason})"
        )
        lines.append(f"{text:30} {known}  n = {figure.n:,}")
    return "\n".join(lines)


def _find(model: str, cohort: Cohort, split: str, workers: int, gpu: bool, report: Report) -> list[dict[str, Any]]:
    """One row a spine: identity, notes, and `found` and `true` bodies, corners in mm."""
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
        _, self._detector = load_vertebra_detector(model, "cuda" if gpu else "cpu")

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, list[str]]:
        shards = self._cohort.shards(self._split)
        return {"rows": [json.dumps(self._rows(shards[int(place)])) for place in batch["place"]]}

    def _rows(self, shard: Any) -> list[dict[str, Any]]:
        return compared(self._detector, self._cohort.read_shard(shard, _COLUMNS))


def compared(detector: VertebraPredictor, data: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Return one row a spine of a cohort's columns: who it is, notes, `found` and `true` bodies with corners in mm."""
    rows = []
    for place, spine in enumerate(detector.find(list(data["image"]))):
        unit = millimetres({name: data[name][place] for name in _COLUMNS[4:]})
        found = [
            {"level": each.level, "corners": (each.corners * unit).tolist(), "score": each.score}
            for each in spine.bodies
        ]
        true = [
            {"level": each["level"], "corners": (corners_of(each) * unit).tolist()} for each in data["vertebrae"][place]
        ]
        names = {name: data[name][place] for name in ("instance_id", "patient_id")}
        rows.append({**names, "notes": list(spine.notes), "found": found, "true": true})
    return rows


def millimetres(row: Mapping[str, float]) -> np.ndarray:
    """Return the (x, y) size in mm of a pixel of a cohort's cell; 1, that is pixels, where the spacing is unknown."""
    spacing = np.array([row["column_spacing_mm"], row["row_spacing_mm"]], float)
    return np.nan_to_num(spacing, nan=1.0) / np.array([row["scale_x"], row["scale_y"]], float)


def spine_result(row: Mapping[str, Any]) -> SpineResult:
    """Return a row of `compared` as what figures are made of."""

    def bodies(name: str) -> Bodies:
        corners = np.array([each["corners"] for each in row[name]], np.float64).reshape(-1, 4, 2)
        return Bodies(tuple(each["level"] for each in row[name]), corners)

    return SpineResult(row["patient_id"], bodies("true"), bodies("found"))
