"""A pair of pictures to what its members say changed: what a replica that answers pairs holds.

reader = PairReader(load("bundles/knee-pair-softmax"))
vote = reader.vote(before, after)
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mskray.bundles import Bundle
from mskray.cohorts.change import PAIR
from mskray.ensemble import Voter
from mskray.errors import UserError
from mskray.evaluation.calibration import decision
from mskray.families import Images, Prediction
from mskray.imaging.intensity import to_dtype
from mskray.imaging.regions import fit_to_format
from mskray.serving.answers import by_class, describe, doubts, model_name
from mskray.serving.problems import Problem
from mskray.serving.schemas.common import Doubt
from mskray.serving.schemas.pairs import PairResult, PairVote
from mskray.serving.schemas.studies import DecodedView

_BLANK = np.zeros((64, 64), np.uint8)


class PairReader:
    """Judges pairs with a loaded ensemble; `described` says with which.

    Raises:
        UserError: its members learned from no pairs.
    """

    def __init__(self, voter: Voter) -> None:
        if any(bundle.kind != PAIR for bundle in voter.bundles):
            bundle = voter.bundles[0]
            raise UserError(
                f"{voter.ensemble.name} is a {bundle.family} of {bundle.kind}s: pairs are judged by what learned from "
                "a cohort of pairs (pair_softmax, pair_bovw)"
            )
        self._voter = voter
        self.described = describe(voter, "pairs")
        self._model = model_name(self.described)
        # The first pair takes longer: what is loaded and chosen at first use is not a client's to wait for.
        self._judged([_BLANK, _BLANK])

    def vote(self, before: DecodedView, after: DecodedView) -> PairVote:
        """Judge a pair.

        Raises:
            Problem: a member can make nothing of a picture.
        """
        predictions = self._judged([before.pixels, after.pixels])
        errors = [reason for each in predictions for reason in each.errors.values()]
        if errors:
            raise Problem("unjudged-pair", f"{'; '.join(dict.fromkeys(errors))}: send other pictures")
        vote = self._voter.combine(predictions)
        classes, mean = self._voter.classes, vote.probabilities
        called = int(decision(mean, self._voter.threshold)[0])
        views = [replace(view, index=place) for place, view in enumerate((before, after))]
        return PairVote(
            pair=PairResult(
                probabilities=by_class(classes, mean[0]),
                label=classes[called],
                threshold=self.described.ensemble.threshold,
            ),
            members={name: by_class(classes, said[0]) for name, said in vote.members.items()},
            warnings=[*doubts(views, self.described.members), *_unlike(views)],
            model=self._model,
        )

    def _judged(self, pair: Sequence[np.ndarray]) -> list[Prediction]:
        """What each member says of a pair of pictures (rows, columns), uint8 or uint16, display-ready."""
        # As a cohort's source joins them: the finer type of the two.
        dtype = np.result_type(*pair)
        pictures = [to_dtype(each, dtype) for each in pair]
        members = zip(self._voter.bundles, self._voter.predictors, strict=True)
        return [predictor(Images([_cell(pictures, bundle)])) for bundle, predictor in members]


def _cell(pictures: Sequence[np.ndarray], bundle: Bundle) -> np.ndarray:
    """(2, size, size): the pair as the member's cohort stores it."""
    canvas = bundle.image["size"], bundle.image["fit"], bundle.image["dtype"]
    return np.stack([fit_to_format(each, *canvas)[0] for each in pictures])


def _unlike(views: Sequence[DecodedView]) -> list[Doubt]:
    """A doubt about pictures of two sizes: cohorts hold none, for what changed may then be the picture alone."""
    sizes = [" × ".join(map(str, view.pixels.shape)) for view in views]
    if sizes[0] == sizes[1]:
        return []
    message = f"before is {sizes[0]} px, after {sizes[1]} px: the models learned from pairs of one size"
    return [Doubt(code="sizes-differ", views=[view.index for view in views], message=message)]
