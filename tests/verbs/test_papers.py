"""The papers' tables: each preset is there and valid, ours stand below theirs, and what is there is not made again."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from small_run import small_job, untrained_bundle

from mskray.bundles import DESCRIPTION
from mskray.cohorts import Cohort
from mskray.config import read_yaml
from mskray.errors import UserError
from mskray.evaluation.metrics import FIGURES
from mskray.evaluation.papers import SOURCES, TABLES
from mskray.evaluation.result import Evaluation, evaluate
from mskray.storage import locate
from mskray.verbs.evaluate import METRICS
from mskray.verbs.papers import against_papers, find_tables, reproduce

CONFIGS = Path(__file__).parents[2] / "jobs" / "configs"
PRESETS = sorted({preset for table in TABLES.values() for row in table.rows for preset in row.presets})


@pytest.mark.parametrize("preset", sorted({*PRESETS, *(name for each in SOURCES.values() for name in each.values())}))
def test_every_row_has_its_preset(preset: str) -> None:
    assert read_yaml(CONFIGS / f"{preset}.yaml")["out"].endswith(f"/{preset}")


def test_figures_are_known_and_shares() -> None:
    for table in TABLES.values():
        for row in table.rows:
            assert set(row.figures) <= set(FIGURES)
            assert all(0 < value < 1 for value in row.figures.values())


def evaluation(part: str = "") -> Evaluation:
    """Of a model that is right now and then; `part` is a part of it that is wrong wherever the whole is right."""
    random = np.random.default_rng(0)
    label = np.tile([0, 1], 100)
    abnormal = np.clip(0.5 + 0.2 * (label - 0.5) + random.normal(0, 0.1, 200), 0, 1)
    names = [f"{number:03d}" for number in range(200)]
    frame = {"instance_id": names, "study_id": names, "patient_id": names, "label": label, "body_part": "WRIST"}
    table = pd.DataFrame({**frame, "prob_normal": 1 - abnormal, "prob_abnormal": abnormal})
    if part:
        table = table.assign(**{f"{part}:prob_normal": abnormal, f"{part}:prob_abnormal": 1 - abnormal})
    return evaluate(table, ["normal", "abnormal"], resamples=100)


def test_ours_stand_below_the_papers_with_split_and_interval(tmp_path: Path) -> None:
    found = evaluation()
    cohort = {"uri": "x", "content_hash": "ab" * 32, "source": "mura"}
    content = {"cohort": cohort, "split": "test", **found.to_dict()}
    for model in ("mura-vgg19", "mura-feature-svm"):
        locate(tmp_path).join(model, "evaluation", "test-abababab", METRICS).write_json(content)
    kappa = found.study.overall.figures["kappa"]
    ours = f"{kappa.value:.3f} ({kappa.low:.3f} to {kappa.high:.3f})"
    lines = against_papers(find_tables("zhaw-1"), str(tmp_path)).splitlines()
    assert [" ".join(line.split()) for line in lines if "0.744" in line or "ours" in line] == [
        "VGG19 paper, MURA hidden test set, 207 studies 0.744",
        f"ours, test of mura abababab, n = 200 {ours}",
    ]
    assert sum("not run (mura-vgg19-rescaled)" in line for line in lines) == 1
    parts = against_papers(find_tables("zhaw-2"), str(tmp_path)).splitlines()
    assert sum(ours in line for line in parts) == 1, "only the wrist was measured"
    assert sum("not run" in line for line in parts) == 6


def test_rows_of_a_part_come_from_the_evaluation_of_the_whole(tmp_path: Path) -> None:
    found = evaluation("global")
    cohort = {"uri": "x", "content_hash": "ab" * 32, "source": "mura"}
    content = {"cohort": cohort, "split": "test", **found.to_dict()}
    locate(tmp_path).join("mura-kalm-vgg16", "evaluation", "test-abababab", METRICS).write_json(content)
    lines = [line for line in against_papers(find_tables("kalm-1"), str(tmp_path)).splitlines() if "ours" in line]
    whole, part = found.study.overall.figures["kappa"].value, found.study.model_parts["global"].figures["kappa"].value
    assert whole is not None
    assert part is not None
    assert [f"{value:.3f}" in line for value, line in zip((part, whole), lines, strict=True)] == [True, True]


def test_older_and_foreign_evaluations_are_not_ours(tmp_path: Path) -> None:
    """One without the model's parts fills the row of the whole alone; a detector's old file and others fill none."""
    cohort = {"uri": "x", "content_hash": "ab" * 32, "source": "mura"}
    older = {"cohort": cohort, "split": "test", **evaluation("global").to_dict(), "schema_version": 1}
    for level in older["levels"].values():
        del level["model_parts"]
    foreign = [{"kinds": [], "split": "test", "cohort": cohort}, [1], "text", {"levels": {"study": None}}]
    folder = locate(tmp_path).join("mura-kalm-vgg16", "evaluation")
    for number, content in enumerate([older, *foreign]):
        folder.join(str(number), METRICS).write_json(content)
    lines = against_papers(find_tables("kalm-1"), str(tmp_path)).splitlines()
    assert sum("ours, test of mura abababab" in line for line in lines) == 1
    assert sum("not run (mura-kalm-vgg16)" in line for line in lines) == 2


def test_without_results_the_papers_figures_stand_alone() -> None:
    text = against_papers(find_tables("zhaw-1"), None)
    assert "0.744" in text
    assert text.count("not run") == 2


def test_an_unknown_table_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match="unknown table 'kalm-3': known are kalm-1, kalm-2, zhaw-1"):
        find_tables("kalm-3")


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_table_is_reproduced_once(phantom_cohort: Cohort, tmp_path: Path) -> None:
    results, configs = locate(tmp_path / "results"), tmp_path / "configs"
    configs.mkdir()
    first = small_job(phantom_cohort, results, loop={"epochs": 1})
    # What has nothing to learn is a row as well.
    second = {key: value for key, value in first.items() if key != "network"}
    second |= {"family": "zoom", "zoom": {"bundle": untrained_bundle(tmp_path / "looks", image_size=32, size=64)}}
    for preset, job in (("mura-vgg19", first), ("mura-vgg19-rescaled", second)):
        (configs / f"{preset}.yaml").write_text(yaml.safe_dump(job))

    def made() -> str:
        uri = str(phantom_cohort.location)
        return reproduce("zhaw-1", uri, str(results), str(configs), ["optimizer.learning_rate=1e-3"])

    text = made()
    assert text.count("ours, test of phantom") == 2
    assert "not run" not in text
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "results").rglob(DESCRIPTION)}
    assert len(before) == 2
    assert made() == text
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "results").rglob(DESCRIPTION)}
