"""What an ensemble was made for, learned from a cohort, so that it can tell what it was not: `mskray.outliers`.

mskray ensemble BUNDLE BUNDLE … --out URI --calibrate COHORT
"""

from collections.abc import Iterator

import numpy as np

from mskray.cohorts import Cohort
from mskray.ensemble import Ensemble, Voter, load_members
from mskray.ensemble_json import OutlierTest
from mskray.families import Images
from mskray.outliers import LEAST, fit, look, write_outliers
from mskray.progress import Progress, Report
from mskray.storage import Location

_MOST = 2000
"""Images of a split that are looked at: a Gaussian of 2,000 features has settled by then."""
_BATCH = 32


def fit_outliers(joined: Ensemble, cohort: Cohort, folder: Location, report: Report) -> OutlierTest | None:
    """Learn from the cohort's train split what is usual, from `validation` how far is too far; write it to `folder`.

    Returns:
        What `ensemble.json` says of it; None for what are no radiographs, and where a split has too few images.
    """
    if cohort.manifest.kind != "radiograph":
        return None
    few = [split for split in ("train", "validation") if split not in cohort.splits or cohort.count(split) < LEAST]
    if few:
        report(Progress(f"split {few[0]} has less than {LEAST} images: what is out of distribution cannot be told"))
        return None
    voter = load_members(joined, joined.name)
    member = _with_features(voter)
    train, held_out = (_looked_at(voter, member, cohort, split, report) for split in ("train", "validation"))
    outliers, threshold = fit(train, held_out)
    fitted_on = f"{cohort.location} train, validation {cohort.content_hash[:16]}"
    return write_outliers(outliers, threshold, fitted_on, member, folder)


def _with_features(voter: Voter) -> int:
    """Position of the first member that has features of whole images; 0 where none has."""
    blank = Images([np.zeros((64, 64), np.uint8)])
    found = (number for number, each in enumerate(voter.predictors) if each(blank).features is not None)
    return next(found, 0)


def _looked_at(voter: Voter, member: int, cohort: Cohort, split: str, report: Report) -> dict[str, np.ndarray]:
    """What is looked at of a split's images, by look."""
    count, done, parts = min(cohort.count(split), _MOST), 0, []
    for pixels in _images(cohort, split, count):
        seen = voter.seen(Images(list(pixels)))
        parts.append(look(seen.pixels, voter.bundles[member].image, voter.predictors[member](seen)))
        done += len(pixels)
        report(Progress(f"what is usual in {split}", done, count))
    return {name: np.concatenate([each[name] for each in parts]) for name in parts[0]}


def _images(cohort: Cohort, split: str, count: int) -> Iterator[np.ndarray]:
    """Yield `count` of a split's images, the same each time, in batches; a shard without any is not read."""
    total = cohort.count(split)
    chosen = np.zeros(total, bool)
    chosen[np.random.default_rng(0).permutation(total)[:count]] = True
    start = 0
    for shard in cohort.shards(split):
        mine = chosen[start : start + shard.rows]
        start += shard.rows
        if mine.any():
            images = cohort.read_shard(shard, ["image"])["image"][mine]
            yield from (images[at : at + _BATCH] for at in range(0, len(images), _BATCH))
