"""What a vote becomes on its way to a client: probabilities by name, boxes in pixels of the image, doubts."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mskray.bundles import Bundle, read_card
from mskray.ensemble import Ensemble, Seen, Vote, Voter, doubt
from mskray.evaluation.calibration import decision
from mskray.families import Prediction
from mskray.imaging.regions import Fit, clipped, has_area
from mskray.outliers import look, read_outliers
from mskray.serving.schemas.common import Doubt, MemberName, ModelName, Probabilities
from mskray.serving.schemas.models import CalibrationInfo, Described, EnsembleInfo, MemberInfo, Served
from mskray.serving.schemas.studies import DecodedView, KeyArea, StudyResult, StudyVote

_DARK, _MOST = 0.15, 0.99
"""Share of the range that so many of a dark image's pixels are below."""


@dataclass(frozen=True)
class Judged:
    """A batch of n views as the members judged it.

    Args:
        seen: the views without flags. predictions: of each member. strange: (n,) bool, unlike what it was made for.
    """

    seen: Seen
    predictions: Sequence[Prediction]
    vote: Vote
    strange: np.ndarray


class Answering:
    """Puts a loaded ensemble's votes into words.

    Raises:
        UserError: what it names to know strange images by is missing or was changed.
    """

    def __init__(self, voter: Voter) -> None:
        self._voter, self._test = voter, voter.ensemble.outliers
        self._outliers = None if self._test is None else read_outliers(self._test)
        self.described = describe(voter, "studies")
        self._model = model_name(self.described)

    def judged(self, seen: Seen, predictions: Sequence[Prediction]) -> Judged:
        """Vote on a batch, given what each member says of it."""
        strange = np.zeros(len(seen), bool)
        if self._outliers is not None and self._test is not None:
            image, said = self._voter.bundles[self._test.member].image, predictions[self._test.member]
            strange = self._outliers(look(seen.pixels, image, said)) > self._test.threshold
        return Judged(seen, predictions, self._voter.combine(predictions), strange)

    def called(self, judged: Judged, rows: slice) -> tuple[np.ndarray, int]:
        """Return the probabilities (classes,) of a study, `rows` of a batch, and the index of the class called."""
        # As in evaluation: a study is the mean of its views' probabilities.
        mean = judged.vote.probabilities[rows].mean(axis=0, dtype=np.float64)
        return mean, int(decision(mean[None], self._voter.threshold)[0])

    def study(self, views: list[DecodedView], judged: Judged, rows: slice) -> StudyVote:
        """Answer one study of a batch: its views are `rows` of it."""
        vote, predictions = judged.vote, judged.predictions
        mean, called = self.called(judged, rows)
        said = list(zip(self._voter.names, predictions, strict=True))
        places = range(rows.start, rows.stop)
        return StudyVote(
            views=[by_class(self._voter.classes, row) for row in vote.probabilities[rows]],
            members=[
                {name: by_class(self._voter.classes, each.probabilities[place]) for name, each in said}
                for place in places
            ],
            parts=[{name: found for name, each in said if (found := self._parts(each, place))} for place in places],
            boxes=[self._boxes(view, predictions, place) for view, place in zip(views, places, strict=True)],
            study=StudyResult(
                probabilities=by_class(self._voter.classes, mean),
                label=self._voter.classes[called],
                threshold=self.described.ensemble.threshold,
                views=len(views),
            ),
            warnings=[
                *doubts(views, self.described.members),
                *_unlike(views, judged.strange[rows]),
                *_flagged(views, judged.seen.flags[rows]),
            ],
            model=self._model,
        )

    def _parts(self, prediction: Prediction, place: int) -> dict[str, Probabilities]:
        """What parts of a member say of the same question."""
        answers = ((name, each[place]) for name, each in prediction.parts.items())
        return {
            name: by_class(self._voter.classes, row) for name, row in answers if len(row) == len(self._voter.classes)
        }

    def _boxes(self, view: DecodedView, predictions: Sequence[Prediction], place: int) -> list[KeyArea]:
        """Where members looked, in pixels of the view as it was decoded."""
        rows, columns = view.pixels.shape
        found = []
        for member, bundle, prediction in zip(self._voter.names, self._voter.bundles, predictions, strict=True):
            placement = Fit(bundle.image["size"], bundle.image["fit"]).placement(rows, columns)
            for name, boxes in prediction.boxes.items():
                box = clipped(placement.to_source(boxes[place].tolist()), rows, columns)
                if has_area(box):
                    x, y, width, height = (round(side, 2) for side in box)
                    found.append(KeyArea(member=member, name=name, x=x, y=y, width=width, height=height))
        return found


def by_class(classes: Sequence[str], row: np.ndarray) -> Probabilities:
    """Name probabilities (classes,)."""
    # A float32 softmax may exceed 1 by its last digit.
    return dict(zip(classes, np.clip(row, 0, 1).tolist(), strict=True))


def doubts(views: list[DecodedView], members: list[MemberInfo]) -> list[Doubt]:
    """Why an answer of these members about these views may be worth less."""
    return [*_strangers(views, members), *_dark(views)]


def _strangers(views: list[DecodedView], members: list[MemberInfo]) -> list[Doubt]:
    """Doubts about body parts that members do not know."""
    found = []
    for part in dict.fromkeys(view.body_part for view in views if view.body_part):
        message = doubt(((member.name, member.body_parts) for member in members), part)
        if message:
            places = [view.index for view in views if view.body_part == part]
            found.append(Doubt(code="body-part-not-trained", views=places, message=message))
    return found


def _dark(views: list[DecodedView]) -> list[Doubt]:
    dark = [view.index for view in views if is_dark(view.pixels)]
    message = "nearly black: was the exposure or the window right?"
    return [Doubt(code="too-dark", views=dark, message=message)] if dark else []


def is_dark(pixels: np.ndarray) -> bool:
    """Whether the 0.99 quantile of a picture, uint8 or uint16, is below `_DARK` of the range.

    Pixels are counted, which takes a tenth of the time that the quantile does: 10 Mpx kept all others waiting for it.
    """
    limit = _DARK * np.iinfo(pixels.dtype).max
    below = np.count_nonzero(pixels < pixels.dtype.type(math.ceil(limit)))
    place = _MOST * (pixels.size - 1)
    if abs(below - place) > 2:  # else the quantile lies between a dark pixel and a bright one
        return bool(below > place)
    return bool(np.quantile(pixels, _MOST) < limit)


def _unlike(views: list[DecodedView], strange: np.ndarray) -> list[Doubt]:
    unlike = [view.index for view, each in zip(views, strange, strict=True) if each]
    message = "unlike the radiographs that the model was made for: the probabilities may mean nothing"
    return [Doubt(code="out-of-distribution", views=unlike, message=message)] if unlike else []


def _flagged(views: list[DecodedView], flags: Sequence[int]) -> list[Doubt]:
    found = [view.index for view, count in zip(views, flags, strict=False) if count]
    message = "an L/R marker was found and painted out before the members looked"
    return [Doubt(code="flag-present", views=found, message=message)] if found else []


def describe(voter: Voter, serves: Served) -> Described:
    """Describe a loaded ensemble and what it is for."""
    ensemble = voter.ensemble
    total = sum(member.weight for member in ensemble.members)
    return Described(
        ensemble=EnsembleInfo(
            name=ensemble.name,
            hash=ensemble_hash(ensemble),
            task=ensemble.task,
            classes=list(ensemble.classes),
            threshold=ensemble.threshold if len(ensemble.classes) == 2 else None,
            calibration=CalibrationInfo(**ensemble.calibration.model_dump()),
            usual=ensemble.outliers.fitted_on if ensemble.outliers else None,
        ),
        members=[
            member_info(serves, bundle, member.uri, name, member.weight / total)
            for name, bundle, member in zip(voter.names, voter.bundles, ensemble.members, strict=True)
        ],
    )


def member_info(serves: Served, bundle: Bundle, uri: str, name: str, weight: float) -> MemberInfo:
    """Describe one bundle at `uri` and what it is for."""
    return MemberInfo(
        serves=serves,
        card=read_card(uri),
        name=name,
        family=bundle.family,
        task=bundle.task,
        classes=list(bundle.classes),
        body_parts=list(bundle.body_parts),
        metrics={key: float(value) for key, value in bundle.best.items() if _is_figure(value)},
        hash=bundle.hash,
        cohort_hash=bundle.cohort.get("content_hash", ""),
        weight=weight,
    )


def model_name(described: Described) -> ModelName:
    """Which model answers, for each of its answers."""
    ensemble = described.ensemble
    return ModelName(
        name=ensemble.name,
        hash=ensemble.hash,
        task=ensemble.task,
        calibrated=ensemble.calibration.fitted_on is not None,
        members=[MemberName(name=member.name, hash=member.hash) for member in described.members],
    )


def ensemble_hash(ensemble: Ensemble) -> str:
    """SHA-256 over all that decides an answer, and not over where the members lie."""
    content = ensemble.model_dump(mode="json", exclude={"name", "members", "flag_remover"})
    if ensemble.flag_remover is not None:
        content["flag_remover"] = ensemble.flag_remover.hash
    if ensemble.outliers is None:
        del content["outliers"]  # the hash of an ensemble without is what it was before there were any
    else:
        del content["outliers"]["file"]
    content["members"] = [[member.hash, member.weight] for member in ensemble.members]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _is_figure(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))
