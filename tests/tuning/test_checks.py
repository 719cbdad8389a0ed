"""Searches that would be judged by what their models have learned are refused."""

import json
from pathlib import Path

import pytest
from small_pairs import pair_cohort
from small_run import untrained_bundle

from mskray.bundles import DESCRIPTION
from mskray.cohorts import Cohort
from mskray.errors import UserError
from mskray.storage import locate
from mskray.tuning.checks import check_unseen


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    return pair_cohort(tmp_path / "cohort", {"train": [0, 1, 2] * 2, "validation": [0, 1, 2]})


def bundle_that_learned(folder: Path, splits: list[str], content_hash: str) -> str:
    place = locate(untrained_bundle(folder, "mobilenet_v3_small", 64, 0, 48)).join(DESCRIPTION)
    place.write_json({**place.read_json(), "learned": splits, "cohort": {"uri": "c", "content_hash": content_hash}})
    return str(folder)


@pytest.mark.parametrize("section", ["network", "zoom"])
def test_a_bundle_that_learned_the_validation_split_is_refused(section: str, cohort: Cohort, tmp_path: Path) -> None:
    uri = bundle_that_learned(tmp_path / "bundle", ["train", "validation"], cohort.merged().content_hash)
    with pytest.raises(UserError, match=rf"{section}\.bundle .*/bundle has learned from the validation split"):
        check_unseen({section: {"bundle": uri}}, cohort)


def test_other_bundles_pass(cohort: Cohort, tmp_path: Path) -> None:
    """Trained on this cohort's train split, or on all of another cohort; or no bundle at all."""
    of_train = bundle_that_learned(tmp_path / "one", ["train"], cohort.content_hash)
    of_another = bundle_that_learned(tmp_path / "two", ["train", "validation"], "f" * 64)
    for given in ({"network": {"bundle": of_train}}, {"zoom": {"bundle": of_another}}, {"network": {}}, {}):
        check_unseen(json.loads(json.dumps(given)), cohort)
