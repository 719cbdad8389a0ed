"""`mskray compare OLD NEW --cohort URI --split NAME`: whether NEW is better, on studies that neither saw."""

from datetime import UTC, datetime

import mskray
from mskray import cluster, ensemble
from mskray.cohorts import open_cohort
from mskray.cohorts.reach import check_everywhere
from mskray.errors import UserError
from mskray.evaluation.comparison import Comparison, Side, compare, comparison_page, comparison_tables
from mskray.evaluation.places import COMPARED, COMPARED_PAGE, comparison_folder
from mskray.evaluation.result import check_resamples
from mskray.prediction.batch import Predicting
from mskray.progress import Progress, Report, silent
from mskray.storage import Location, check_access, locate
from mskray.unseen import check_not_learned
from mskray.verbs.evaluate import held_out, predicted
from mskray.verbs.tables import table as text_table


def compare_models(
    old: str,
    new: str,
    cohort_uri: str,
    split: str,
    out: str | None = None,
    *,
    workers: int = 1,
    gpu: bool = False,
    resamples: int = 1000,
    report: Report = silent,
) -> tuple[Comparison, Location]:
    """Predict a split by two models, and write what differs as `compare.json` and `compare.html`.

    Args:
        old, new: URIs of bundles or ensembles that tell the same classes apart.
        out: folder; `comparison/<old>-<split>-<first 8 digits of the cohort's hash>` in the new model's when None.
    Returns:
        The comparison and its folder.
    Raises:
        UserError: before any work, when a model, cohort, split or `out` does not do, or a model has seen the split.
    """
    check_resamples(resamples)
    places = [locate(old), locate(new)]
    for place in (*places, locate(cohort_uri)):
        check_access(place)
    described = [ensemble.describe(place) for place in places]
    cohort, (one, other) = open_cohort(cohort_uri), described
    if (one.task, one.classes) != (other.task, other.classes):
        raise UserError(
            f"{old} tells {', '.join(one.classes)} apart ({one.task}), {new} {', '.join(other.classes)} "
            f"({other.task}): compare models of the same task"
        )
    members, tasks = zip(*(held_out(each, cohort, split, check_not_learned) for each in described), strict=True)
    target = locate(out) if out else comparison_folder(places[1], places[0], cohort, split)
    check_access(target, write=True)
    runs = [Predicting(str(place), each, workers, gpu, report) for place, each in zip(places, described, strict=True)]
    names = _distinct(one.name, other.name)
    with cluster.session():
        check_everywhere([*places, cohort.location])
        before, after = (
            Side(name, predicted(run, cohort, split), run.ensemble.threshold)
            for name, run in zip(names, runs, strict=True)
        )
    report(Progress("computing figures and intervals"))
    found = compare(before, after, one.classes, ordinal=tasks[0].ordinal, resamples=resamples)
    models = {
        side: {
            "uri": str(place),
            "name": name,
            "members": [bundle.hash for bundle in bundles],
            "added": [each.model_dump(mode="json") for bundle in bundles for each in bundle.added],
        }
        for side, place, name, bundles in zip(("old", "new"), places, names, members, strict=True)
    }
    date = datetime.now(UTC).isoformat(timespec="seconds")
    where = {"uri": str(cohort.location), "content_hash": cohort.content_hash, "source": cohort.manifest.source}
    facts = {"models": models, "cohort": where, "split": split, "created": date, "created_by": _program()}
    target.join(COMPARED).write_json({**facts, **found.to_dict()})
    notes = [f"Cohort {cohort.location}, content hash {cohort.content_hash[:16]}. {date}, {_program()}."]
    notes += [
        f"{names[1]} learned {each['images']:,} images of {each['uri']} beside its cohort."
        for each in models["new"]["added"]
    ]
    if split == "validation":
        notes.append("Epochs and settings are chosen on validation: these figures flatter. The test split is fair.")
    page = comparison_page(found, f"on {split} of {cohort.location.name}", notes)
    target.join(COMPARED_PAGE).write_bytes(page.encode())
    return found, target


def comparison_lines(found: Comparison) -> str:
    """The comparison as text for a terminal."""
    return "\n\n".join(text_table(each.columns, each.rows) for each in comparison_tables(found))


def _distinct(old: str, new: str) -> tuple[str, str]:
    return (old, new) if old != new else (f"{old} (old)", f"{new} (new)")


def _program() -> str:
    return f"mskray {mskray.__version__}"
