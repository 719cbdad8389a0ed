"""Soft voting over bundles: the weighted mean of the members' probabilities, calibrated, with a threshold.

    mskray ensemble BUNDLE BUNDLE … --out URI [--calibrate COHORT] [--remove-flags BUNDLE]

`ensemble.json` names members by URI and hash; a member that changed since is refused. A single bundle is read as an
ensemble of one, so that whatever predicts knows only `Voter`.
"""

import copy
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from pydantic import ValidationError
from torch import nn

from mskray import bundles
from mskray.bundles import Bundle, read_description
from mskray.cohorts import Cohort, Task
from mskray.ensemble_json import SCHEMA_VERSION, Calibration, Ensemble, FlagRemover, Member
from mskray.errors import UserError
from mskray.evaluation.calibration import apply_temperature
from mskray.families import Images, Prediction, Predictor, load_predictor
from mskray.families.flag_removal import FlagPredictor, check_flag_detector, load_flag_detector
from mskray.families.vertebra_finding import check_tells_classes_apart
from mskray.storage import Location, locate
from mskray.storage.versioned import read_versioned

DESCRIPTION = "ensemble.json"


@dataclass(frozen=True)
class Seen(Images):
    """Radiographs as the members see them.

    Args:
        flags: how many L/R markers were taken out of each; empty where the ensemble has no remover.
    """

    flags: Sequence[int] = ()


@dataclass(frozen=True)
class Vote:
    """What an ensemble says of n images.

    Args:
        probabilities: (n, classes) float32, weighted mean of the members, calibrated.
        members: each member's own (n, classes) probabilities by name.
        parts: what parts of a single member say, (n, classes) by name; empty where several vote.
        boxes: where a single member looked, (n, 4) by name, in pixels of its canvas; empty where several vote.
        errors: why a member could not judge some of the n, by place: there is no vote on these.
    """

    probabilities: np.ndarray
    members: Mapping[str, np.ndarray]
    parts: Mapping[str, np.ndarray]
    boxes: Mapping[str, np.ndarray]
    errors: Mapping[int, str] = field(default_factory=dict)


class Voter:
    """A loaded ensemble, ready to predict in this process.

    `names`, `bundles` and `predictors` have an entry a member; `tasks` the classes of each of a vote's `parts`, where
    these answer tasks of their own.
    """

    def __init__(
        self,
        ensemble: Ensemble,
        members: Sequence[tuple[Bundle, Predictor]],
        remover: FlagPredictor | None = None,
    ) -> None:
        self.ensemble, self.remover = ensemble, remover
        self.classes, self.threshold = ensemble.classes, ensemble.threshold
        self.bundles = tuple(bundle for bundle, _ in members)
        self.names = tuple(distinct_names([bundle.name for bundle in self.bundles]))
        self.predictors = tuple(predictor for _, predictor in members)
        # Several vote on one question, the first of each; a single one answers all that it knows.
        self.tasks = self.bundles[0].tasks if len(self.bundles) == 1 else {}
        weights = np.array([member.weight for member in ensemble.members], dtype=np.float64)
        self._weights = weights / weights.sum()

    def __call__(self, images: Images) -> Vote:
        """Vote on a batch of radiographs."""
        seen = self.seen(images)
        return self.combine([predictor(seen) for predictor in self.predictors])

    def twin(self) -> "Voter":
        """Return a voter with networks of its own on the same weights, for another thread.

        Hooks make predictors not thread-safe. What they have beside networks is read alone, and shared.
        """
        loaded = [*self.predictors, *([self.remover] if self.remover else [])]
        shared: dict[int, Any] = {}
        for each in (each for predictor in loaded for each in vars(predictor).values()):
            kept = (*each.parameters(), *each.buffers()) if isinstance(each, nn.Module) else (each,)
            shared |= {id(one): one for one in kept}
        return copy.deepcopy(self, shared)

    def seen(self, images: Images) -> Seen:
        """Return the radiographs as the members see them: without flags, where the ensemble has a remover."""
        seen = Seen(images.pixels, images.body_parts, images.studies)
        if self.remover is None:
            return seen
        cleaned = self.remover.clean(images.pixels)
        flags = [len(each.flags) if each.changed.any() else 0 for each in cleaned]
        return replace(seen, pixels=[each.pixels for each in cleaned], flags=flags)

    def combine(self, predictions: Sequence[Prediction]) -> Vote:
        """Vote, given what each of `predictors` says of the same radiographs as `seen` gives them."""
        votes = [prediction.probabilities for prediction in predictions]
        mean = np.tensordot(self._weights, np.stack(votes), axes=1)
        scaled = apply_temperature(mean, self.ensemble.calibration.temperature)
        members = dict(zip(self.names, votes, strict=True))
        single = predictions[0] if len(predictions) == 1 else Prediction(mean)
        errors = {place: reason for prediction in predictions for place, reason in prediction.errors.items()}
        return Vote(scaled.astype(np.float32), members, single.parts, single.boxes, errors)


Loader = Callable[[Member, str, str], tuple[Bundle, Predictor]]


def join(
    uris: Sequence[str],
    name: str,
    weights: Sequence[float] | None = None,
    calibration: Calibration | None = None,
    flag_remover: str | None = None,
) -> Ensemble:
    """Describe the soft-voting ensemble of some bundles.

    Args:
        flag_remover: URI of a flag detector whose flags are removed before every prediction.
    Raises:
        UserError: no bundles, weights that do not fit, bundles that answer different questions, a remover that is no
            flag detector, or one for what are no radiographs.
    """
    if not uris:
        raise UserError("an ensemble needs at least one bundle")
    if weights is not None and len(weights) != len(uris):
        raise UserError(f"{len(weights)} weights for {len(uris)} bundles: give one for each or none")
    for weight in weights or ():
        if not 0 < weight < float("inf"):
            raise UserError(f"weight {weight:g} of a bundle: give a positive number, or leave the bundle out")
    described = [(str(locate(uri)), read_description(uri)) for uri in uris]
    for uri, bundle in described:
        check_tells_classes_apart(bundle, uri)
    first = described[0][1]
    for uri, bundle in described[1:]:
        if (bundle.task, bundle.classes, bundle.kind) != (first.task, first.classes, first.kind):
            raise UserError(
                f"bundle {uri} answers {bundle.task} {'/'.join(bundle.classes)} on {bundle.kind}s, {uris[0]} answers "
                f"{first.task} {'/'.join(first.classes)} on {first.kind}s: an ensemble needs one question"
            )
    if flag_remover is not None and first.kind != "radiograph":
        raise UserError(f"bundle {uris[0]} reads {first.kind}s: flags are removed from radiographs alone, leave it out")
    members = [
        Member(uri=uri, hash=bundle.hash, weight=weight)
        for (uri, bundle), weight in zip(described, weights or [1.0] * len(uris), strict=True)
    ]
    return Ensemble(
        name=name,
        task=first.task,
        classes=first.classes,
        members=tuple(members),
        calibration=calibration or Calibration(),
        flag_remover=None if flag_remover is None else _described_remover(flag_remover),
    )


def _described_remover(uri: str) -> FlagRemover:
    bundle = read_description(uri)
    check_flag_detector(bundle, uri)
    return FlagRemover(uri=str(locate(uri)), hash=bundle.hash)


def save_ensemble(ensemble: Ensemble, location: Location) -> None:
    """Write `ensemble.json`; what it names beside itself is written before."""
    location.join(DESCRIPTION).write_json(ensemble.model_dump(mode="json"))


def describe(uri: str | Location) -> Ensemble:
    """Read the ensemble at `uri`; a bundle counts as an ensemble of one. Raises UserError for anything else."""
    location = locate(uri)
    if location.join(bundles.DESCRIPTION).is_file():
        return join([str(location)], location.name)
    if not location.join(DESCRIPTION).is_file():
        raise UserError(
            f"{location} holds neither {bundles.DESCRIPTION} nor {DESCRIPTION}: give a bundle or an ensemble"
        )
    content = read_versioned(location.join(DESCRIPTION), "ensemble", SCHEMA_VERSION)
    try:
        made = Ensemble.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"ensemble {location}: {DESCRIPTION} is damaged at {first['loc']}: {first['msg']}") from None
    if made.outliers is None:
        return made
    if made.outliers.member >= len(made.members):
        raise UserError(f"ensemble {location}: {DESCRIPTION} is damaged: outliers.member is none of its members")
    file = location.join(made.outliers.file)
    return made.model_copy(update={"outliers": made.outliers.model_copy(update={"file": str(file)})})


def load(uri: str | Location, device: str = "cpu") -> Voter:
    """Load an ensemble or a bundle with all its members. Raises UserError when a member is missing or has changed."""
    return load_members(describe(uri), str(uri), device)


def load_members(ensemble: Ensemble, name: str, device: str = "cpu", load: "Loader | None" = None) -> Voter:
    """Load the members of a described ensemble; `name` stands for it in errors. Raises UserError as `load`.

    Args:
        load: what loads one, given its place, `name` and `device`; here, in this process, when None.
    """
    members = [(load or _load_member)(member, name, device) for member in ensemble.members]
    return Voter(ensemble, members, _load_remover(ensemble, name, device))


def check_members(ensemble: Ensemble, name: str) -> tuple[Bundle, ...]:
    """Load each member once and let go of it: whatever is wrong with one is a UserError here, not in a worker.

    Returns the members' descriptions.
    """
    _load_remover(ensemble, name, "cpu")
    return tuple(_load_member(member, name, "cpu")[0] for member in ensemble.members)


def matching_task(ensemble: Ensemble, cohort: Cohort) -> Task:
    """Return the cohort's task of that name.

    Raises:
        UserError: no such task, or one of other classes or another order: a label is an index into the classes.
    """
    task = cohort.task(ensemble.task)
    if task.classes != ensemble.classes:
        raise UserError(
            f"cohort {cohort.location}, task {task.name}: its classes are {', '.join(task.classes)}, those of the "
            f"model are {', '.join(ensemble.classes)}: use a cohort of the same classes in the same order"
        )
    return task


def doubt(members: Iterable[tuple[str, Collection[str]]], part: str) -> str | None:
    """Say which members, given by name with the body parts they know, know nothing of `part`; None where all do."""
    names = [name for name, parts in members if part not in parts]
    if not names:
        return None
    were = "was" if len(names) == 1 else "were"
    return f"{', '.join(names)} {were} not trained on {part}: the probabilities may mean nothing"


def distinct_names(names: list[str]) -> list[str]:
    """Number names that occur more than once, so that votes can be told apart."""
    return [name if names.count(name) == 1 else f"{name} ({index + 1})" for index, name in enumerate(names)]


def _load_member(member: Member, name: str, device: str) -> tuple[Bundle, Predictor]:
    bundle, predictor = load_predictor(member.uri, device)
    if bundle.hash != member.hash:
        raise UserError(
            f"ensemble {name}: member {member.uri} has changed since the ensemble was made: make the ensemble again"
        )
    return bundle, predictor


def _load_remover(ensemble: Ensemble, name: str, device: str) -> FlagPredictor | None:
    given = ensemble.flag_remover
    if given is None:
        return None
    bundle, predictor = load_flag_detector(given.uri, device)
    if bundle.hash != given.hash:
        raise UserError(
            f"ensemble {name}: flag remover {given.uri} has changed since the ensemble was made: make it again"
        )
    return predictor
