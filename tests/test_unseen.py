"""Models are not judged by what they, or bundles that they stand on, have seen."""

import json
from pathlib import Path

import pytest
from small_discs import TASKS, disc_cohort
from small_pairs import pair_cohort
from small_run import untrained_bundle

from mskray.bundles import DESCRIPTION, Bundle
from mskray.cohorts import Cohort
from mskray.errors import UserError
from mskray.storage import locate
from mskray.tuning.figures import SPLIT
from mskray.unseen import check_foundations, check_held_out


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
    with pytest.raises(UserError, match=rf"{section}\.bundle .*/bundle was trained on train and validation"):
        check_foundations({section: {"bundle": uri}}, cohort, SPLIT)


def test_other_bundles_pass(cohort: Cohort, tmp_path: Path) -> None:
    """Trained on this cohort's train split, or on all of another cohort; or no bundle at all."""
    of_train = bundle_that_learned(tmp_path / "one", ["train"], cohort.content_hash)
    of_another = bundle_that_learned(tmp_path / "two", ["train", "validation"], "f" * 64)
    for given in ({"network": {"bundle": of_train}}, {"zoom": {"bundle": of_another}}, {"network": {}}, {}):
        check_foundations(json.loads(json.dumps(given)), cohort, SPLIT)


def test_a_model_is_not_judged_on_the_split_that_chose_it(tmp_path: Path) -> None:
    cohort = disc_cohort(tmp_path, TASKS)
    told = {"name": "conv5", "config": {}, "cohort": {"uri": "", "content_hash": cohort.exchange().content_hash}}
    bundle = Bundle.model_construct(**told)
    with pytest.raises(UserError, match="conv5 was trained with validation and test exchanged"):
        check_held_out(bundle, cohort, "test")
    check_held_out(bundle, cohort, "validation")
    check_held_out(bundle, cohort.exchange(), "test")
    told["cohort"] = {"uri": "", "content_hash": cohort.content_hash}
    check_held_out(Bundle.model_construct(**told), cohort, "test")


@pytest.mark.parametrize(("seen", "split"), [("merged", "validation"), ("exchanged, merged", "test")])
def test_a_model_is_not_judged_on_a_split_that_was_merged_into_what_it_learned(
    tmp_path: Path, seen: str, split: str
) -> None:
    cohort = disc_cohort(tmp_path, TASKS)
    learned = (cohort.exchange() if "exchanged" in seen else cohort).merged()
    bundle = Bundle.model_construct(name="best", config={}, cohort={"uri": "", "content_hash": learned.content_hash})
    with pytest.raises(UserError, match=f"best was trained on train and {split}"):
        check_held_out(bundle, cohort, split)
    check_held_out(bundle, cohort, {"validation": "test", "test": "validation"}[split])
    check_held_out(bundle, learned, "validation")
    check_held_out(bundle, cohort.fold(0, 2, 0), "validation")


def test_what_stands_on_a_model_that_learned_a_split_is_not_judged_on_it_either(tmp_path: Path) -> None:
    """Its own training may have left the split alone: the network below it has seen it."""
    cohort = disc_cohort(tmp_path / "cohort", TASKS)
    place = locate(untrained_bundle(tmp_path / "below")).join(DESCRIPTION)
    place.write_json({**place.read_json(), "cohort": {"uri": "", "content_hash": cohort.merged().content_hash}})
    told = {"name": "top", "cohort": {"uri": "", "content_hash": cohort.content_hash}}
    bundle = Bundle.model_construct(**told, config={"network": {"bundle": str(tmp_path / "below")}})
    with pytest.raises(UserError, match=r"top stands on below: below was trained on train and validation"):
        check_held_out(bundle, cohort, "validation")
    check_held_out(bundle, cohort, "test")
    check_held_out(Bundle.model_construct(**told, config={"zoom": {"bundle": "gone"}}), cohort, "validation")
