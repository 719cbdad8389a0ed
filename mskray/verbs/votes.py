"""`mskray tune CONFIG.yaml` of an ensemble: which bundles vote, and with which weights.

    family: ensemble
    cohort: s3://bucket/cohorts/knees                 # its validation split judges the votes
    out: s3://bucket/searches/ensemble
    members: [s3://bucket/bundles/a, s3://bucket/bundles/b]
    space:                                            # over each member's own: whether it votes, weights from 0 to 1
      members.a.weight: {choice: [1, 2, 3]}
      members.b.member: null                          # always votes

Each member predicts the split once; that is kept in the search's folder, and a trial only weighs it.

    <out>/members/<hash>.parquet    what a bundle said of each image, and in every row what it takes
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
from pydantic import create_model
from ray.exceptions import RayError

from mskray.bundles import Bundle, load_bundle, read_description
from mskray.cohorts import Cohort, Task
from mskray.config import Section, setting, validate
from mskray.ensemble import Ensemble, Member, join, matching_task
from mskray.errors import UserError, user_error_in
from mskray.families import family
from mskray.prediction.batch import Predicting
from mskray.progress import Progress, Report, silent
from mskray.space import Parameter, Space, choice
from mskray.storage import Location, check_access, locate
from mskray.storage.tables import parquet_bytes
from mskray.training.run import Resources
from mskray.tuning.ballots import Ballots, weights_of
from mskray.tuning.figures import LATENCY, SIZE, SPLIT
from mskray.tuning.job import TuneJob, read_job
from mskray.tuning.judge import cost
from mskray.tuning.ledger import VOTES
from mskray.unseen import check_held_out

_MEMBERS = "members"
_IDENTITY = ("instance_id", "study_id", "patient_id", "body_part")
_COST = (LATENCY, SIZE)
_MOST_BYTES = 4 << 30
_ONLY: Any = Literal


class Ballot(Section):
    """A bundle of an ensemble."""

    weight: float = setting(1.0, "of its probabilities in the mean, beside the others' weights", ge=0, le=1e6)
    member: bool = setting(True, "whether it votes")
    uri: str
    hash: str


class _Given(Section):
    members: tuple[str, ...] = setting(..., "URIs of the bundles that may vote", min_length=2)


@dataclass(frozen=True)
class Votes:
    """What a search of an ensemble is of (`mskray.tuning.subject.Subject`).

    Args:
        ensemble: all who may vote.
        bundles: their descriptions.
        names: by which parameters know them.
        Config: `members.<name>` is a `Ballot`.
        resources: of the predictions; votes need none.
    """

    ensemble: Ensemble
    bundles: tuple[Bundle, ...]
    names: tuple[str, ...]
    Config: type[Section]
    resources: Resources
    name: ClassVar[str] = VOTES
    judged_by: ClassVar[str] = "study.kappa"
    tells_classes: ClassVar[bool] = True

    @classmethod
    def of(cls, uris: Sequence[str]) -> "Votes":
        """Read the bundles. Raises UserError where they do not go together, or one is given twice."""
        for uri in uris:
            check_access(locate(uri))
        joined = join(uris, VOTES)
        bundles = tuple(read_description(uri) for uri in uris)
        hashes = [member.hash for member in joined.members]
        for number, (uri, each) in enumerate(zip(uris, hashes, strict=True)):
            if each in hashes[:number]:
                raise UserError(f"bundles {uris[hashes.index(each)]} and {uri} are the same: give it once")
        names = _names(bundles)
        ballots = {name: _ballot(member) for name, member in zip(names, joined.members, strict=True)}
        fields: Any = {name: (kind, kind()) for name, kind in ballots.items()}
        members = create_model("Members", __base__=Section, **fields)
        config = create_model("Votes", __base__=Section, members=(members, members()))
        return cls(joined, bundles, names, config, Resources())

    @property
    def base(self) -> dict[str, Any]:
        """The config's sections before a trial's parameters: all vote, with equal weights."""
        return self.Config().model_dump(mode="json")

    def search_space(self) -> Space:
        """Whether each bundle votes, and the weights of those that do."""
        there, weight = {}, {}
        for name in self.names:
            key = f"members.{name}.member"
            there[key] = choice(True, False)
            weight[f"members.{name}.weight"] = Parameter("uniform", (0.0, 1.0), {key: (True,)})
        return {**there, **weight}

    def spaces(self) -> Mapping[str, Space]:
        """Members alone, with equal weights; weights alone, of all."""
        whole = self.search_space()
        alone = {key: replace(each, when={}) for key, each in whole.items() if key.endswith(".weight")}
        return {"members": {key: each for key, each in whole.items() if key not in alone}, "weights": alone}

    def task(self, cohort: Cohort, name: str) -> Task:
        """Return the cohort's task that the members answer. Raises UserError where it has none, or `name` is another.

        `name` may be left empty.
        """
        if name not in ("", self.ensemble.task):
            raise UserError(f"the members answer {self.ensemble.task}, not the task {name!r}: leave the key task out")
        return matching_task(self.ensemble, cohort)

    def check_kind(self, cohort: Cohort) -> None:
        """Raise UserError for a cohort that the members do not read, or whose validation split cannot judge them."""
        kind, task = cohort.manifest.kind, self.ensemble.task
        if kind != self.bundles[0].kind:
            raise UserError(f"the members read {self.bundles[0].kind} cohorts, {cohort.location} holds {kind}s")
        cohort.shards(SPLIT)
        labels = cohort.manifest.counts.splits[SPLIT].labels.get(task, {})
        if sum(number > 0 for number in labels.values()) < 2:
            raise UserError(
                f"cohort {cohort.location}, split {SPLIT}: votes are judged on labels of two classes of {task} at "
                "least: ingest more patients"
            )
        for bundle in self.bundles:
            try:
                check_held_out(bundle, cohort, SPLIT)
            except UserError:
                raise UserError(
                    f"bundle {bundle.name} learned from the {SPLIT} split of {cohort.location}, on which votes are "
                    "judged: leave it out of members, or give one that was trained without merge"
                ) from None

    def check(self, cohort: Cohort, config: Any, task: Task) -> None:
        """Raise UserError where nobody votes."""
        if not weights_of(config.members.model_dump()):
            raise UserError("no member votes with a weight above 0")

    def ballots(self, cohort: Cohort, folder: Location, report: Report = silent) -> Ballots:
        """Have each member predict the validation split, where it has not yet, and return what all say.

        Args:
            folder: the search's.
        Raises:
            UserError: a member cannot be loaded or has changed, or there is no room for its prediction.
        """
        for number, (name, member) in enumerate(zip(self.names, self.ensemble.members, strict=True), start=1):
            place = _place(folder, member.hash)
            if place.is_file():
                continue
            report(Progress(f"{name}, {number} of {len(self.names)} members, predicts {SPLIT}"))
            alone = self.ensemble.model_copy(update={"name": name, "members": (member,)})
            asked = Predicting(member.uri, alone, self.resources.workers, self.resources.gpu, report)
            table = asked.cohort(cohort, [SPLIT]).select(_columns(alone.classes))
            for figure, value in _cost(member, cohort, self.resources).items():
                table = table.append_column(figure, pa.array(np.full(len(table), value)))
            place.write_bytes(parquet_bytes(table))
        return collect(folder, self.base["members"], cohort, self.task(cohort, ""), report)


def parse_votes(data: Mapping[str, Any], where: str) -> tuple[TuneJob, Votes, dict[str, Any]]:
    """Validate a search of an ensemble; otherwise as `mskray.verbs.tune.parse_search`.

    Raises:
        UserError: naming each wrong key, bundles that do not go together, or what makes no sense for votes.
    """
    given = {key: data[key] for key in _Given.model_fields if key in data}
    votes = Votes.of(validate(_Given, given, where).members)
    job, base = read_job({**data, **votes.base}, votes, where)
    for key, there, cure in (
        (
            "trials.folds",
            job.trials.folds > 1,
            "members are trained, and judged on the validation split: set 1",
        ),
        ("scheduler.name", job.scheduler.name != "none", "a vote has no epochs to be stopped after: set none"),
        ("repeats.best", job.repeats.best > 0, "a vote has no seed, and would repeat itself: set 0"),
    ):
        if there:
            raise UserError(f"{where}: {key} makes no sense for an ensemble: {cure}, or leave it out")
    return job.model_copy(update={"resources": Resources()}), replace(votes, resources=job.resources), base


def collect(
    folder: Location, members: Mapping[str, Mapping[str, Any]], cohort: Cohort, task: Task, report: Report = silent
) -> Ballots:
    """Read what the members of a search said of the labelled images, as far as all could judge them.

    Args:
        folder: the search's.
        members: `hash` of each, by name.
    Raises:
        UserError: what a member said is not there or cannot be read, or there is no image that all could judge.
    """
    places = [_place(folder, each["hash"]) for each in members.values()]
    tables = [_read(place, name, task.classes) for place, name in zip(places, members, strict=True)]
    rows = tables[0].select([*_IDENTITY, "label"])
    for place, table in zip(places, tables, strict=True):
        if not table["instance_id"].equals(rows["instance_id"]):
            raise UserError(f"{place} is not of the images of {cohort.location}: delete it, and mskray tune asks again")
    columns = [f"prob_{name}" for name in task.classes]
    prob = np.stack([np.stack([table[name].to_numpy() for name in columns], axis=1) for table in tables])
    labelled = pc.is_valid(rows["label"]).to_numpy()
    good = labelled & ~np.isnan(prob).any(axis=(0, 2))
    if not good.any():
        raise UserError(f"there is no labelled image of {cohort.location}, {SPLIT}, that every member could judge")
    if (left := labelled.sum() - good.sum()) > 0:
        report(Progress(f"{left} of {labelled.sum()} labelled images some member could not judge: no vote is on them"))
    costs = tuple({figure: float(table[figure][0].as_py()) for figure in _COST} for table in tables)
    return Ballots(
        tuple(members),
        rows.filter(pa.array(good)),
        prob[:, good],
        costs,
        task.classes,
        task.ordinal,
        cohort.manifest.kind,
    )


def _names(bundles: Sequence[Bundle]) -> tuple[str, ...]:
    """Names for keys: those of the bundles, numbered where they are given twice or a config cannot have them."""
    found: list[str] = []
    for bundle in bundles:
        plain = re.sub(r"[^\w-]+", "-", bundle.name, flags=re.ASCII).strip("_-") or "bundle"
        tried = chain([plain], (f"{plain}-{number}" for number in count(2)))
        found.append(next(name for name in tried if name not in found and not hasattr(Section, name)))
    return tuple(found)


def _ballot(member: Member) -> type[Section]:
    """A member's section: which bundle it is cannot be searched."""
    fixed: Any = {name: (_ONLY[value], value) for name, value in (("uri", member.uri), ("hash", member.hash))}
    return create_model("Ballot", __base__=Ballot, **fixed)


def _cost(member: Member, cohort: Cohort, resources: Resources) -> dict[str, float]:
    task: Any = ray.remote(_measured).options(num_cpus=1, num_gpus=resources.gpus, scheduling_strategy="SPREAD")
    try:
        found: dict[str, float] = ray.get(task.remote(member.uri, cohort, "cuda" if resources.gpu else "cpu"))
    except RayError as error:
        raise user_error_in(error) or error from error
    return found


def _measured(uri: str, cohort: Cohort, device: str) -> dict[str, float]:
    bundle, fitted = load_bundle(uri)
    return cost(family(bundle.family), fitted, cohort, device)


def _place(folder: Location, bundle: str) -> Location:
    """Where a search keeps what the bundle of this hash said."""
    return folder.join(_MEMBERS, f"{bundle}.parquet")


def _columns(classes: Sequence[str]) -> list[str]:
    return [*_IDENTITY, "label", *(f"prob_{name}" for name in classes)]


def _read(place: Location, name: str, classes: Sequence[str]) -> pa.Table:
    if not place.is_file():
        raise UserError(f"{place} is not there: run mskray tune of this search again, which asks {name}")
    try:
        table = pq.read_table(pa.BufferReader(place.read_bytes(_MOST_BYTES)))
        return table.select([*_columns(classes), *_COST])
    except (pa.ArrowInvalid, KeyError) as error:
        what = " ".join(str(error).split())[:200]
        raise UserError(f"{place} cannot be read ({what}): delete it, and mskray tune asks {name} again") from None
