"""Figures mean something on data that a model has not seen; here is asked whether it has."""

from collections.abc import Mapping
from typing import Any

from mskray.bundles import Bundle, foundations
from mskray.cohorts import Cohort
from mskray.errors import UserError


def check_held_out(bundle: Bundle, cohort: Cohort, split: str) -> None:
    """Raise UserError where a bundle learned from this split, or it chose its epoch, though its name says otherwise.

    That is so of bundles that were trained with validation and test exchanged, or with train and validation merged, and
    of those that stand on such a one.
    """
    for below in (bundle, *(each for _, _, each in foundations(bundle.config))):
        if told := _seen(below, cohort, split):
            why = "" if below is bundle else f"{bundle.name} stands on {below.name}: "
            raise UserError(f"{why}{below.name} {told}: evaluate it on a split or a cohort that it has not seen")


def check_foundations(sections: Mapping[str, Any], cohort: Cohort, split: str) -> None:
    """Raise UserError where a model would stand on a bundle that has seen the split it is going to be judged by.

    Args:
        sections: of its config, as they are given.
    """
    for key, uri, bundle in foundations(sections):
        if told := _seen(bundle, cohort, split):
            raise UserError(f"{key} {uri} {told}: give a bundle that has not seen what the model is judged by")


def check_not_learned(bundle: Bundle, cohort: Cohort, split: str) -> None:
    """As `check_held_out`, and raise UserError where the split is one that the bundle says it learned from."""
    check_held_out(bundle, cohort, split)
    learned = (bundle.cohort["content_hash"], *(each.content_hash for each in bundle.added))
    if split == "train" and cohort.content_hash in learned:
        raise UserError(f"{bundle.name} learned from train of {cohort.location}: give a split that it has not seen")


def _seen(bundle: Bundle, cohort: Cohort, split: str) -> str:
    """Say how a bundle has seen a split; "" where it has not."""
    cohort = cohort.alone()  # a bundle names the cohort by itself; what was added has no share in what is held out
    if cohort.view.merged or cohort.view.fold:
        return ""  # whoever asks for such a view says what its splits are
    learned = bundle.cohort["content_hash"]
    held = cohort.exchange() if split == "test" else cohort
    if split != "train" and {"train", "validation"} <= set(held.splits) and learned == held.merged().content_hash:
        return f"was trained on train and {split}"
    if split != "test" or cohort.exchanged or learned == cohort.content_hash or "validation" not in cohort.splits:
        return ""
    if learned == cohort.exchange().content_hash:
        return "was trained with validation and test exchanged, its epoch was chosen on test"
    return ""
