"""`mskray predict BUNDLE|ENSEMBLE IN --out predictions.parquet`: images become a table of probabilities."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import pyarrow as pa

from mskray import ensemble
from mskray.cohorts import open_cohort
from mskray.cohorts.schema import MANIFEST
from mskray.prediction.batch import Predicting
from mskray.progress import Report, silent
from mskray.storage import Location, check_access, locate
from mskray.storage.tables import parquet_bytes
from mskray.verbs.here import no_cluster


def predict(
    model: str,
    source: str,
    out: str,
    *,
    split: str | None = None,
    workers: int = 1,
    gpu: bool = False,
    report: Report = silent,
) -> pa.Table:
    """Predict a cohort (one split or all), a folder or prefix of images, or one image; write a Parquet file.

    A cohort needs no labels. One worker predicts in this process where no cluster is named or joined: Ray's processes
    take half a minute to start.

    Raises:
        UserError: before any work, when model, source or `out` does not do.
    """
    location, place, target = locate(model), locate(source), locate(out)
    for where, write in ((location, False), (place, False), (target, True)):
        check_access(where, write)
    here = workers == 1 and no_cluster()
    predicting = Predicting(str(location), ensemble.describe(location), workers, gpu, report, here)
    if place.join(MANIFEST).is_file():
        cohort = open_cohort(place)
        splits = [split] if split else cohort.splits
        for each in splits:
            cohort.shards(each)  # a split that is not there is refused before Ray starts, as is a folder without files
        with nullcontext() if here else _cluster(location, place):
            table = predicting.cohort(cohort, splits, need_labels=False)
    else:
        root, paths = predicting.listed(place)
        with nullcontext() if here else _cluster(location, place):
            table = predicting.files(root, paths)
    target.write_bytes(parquet_bytes(table))
    return table


@contextmanager
def _cluster(*read: Location) -> Iterator[None]:
    """Ray, on nodes that all reach what is read."""
    from mskray import cluster
    from mskray.cohorts.reach import check_everywhere

    with cluster.session():
        check_everywhere(read)
        yield
