"""`mskray tune promote URI [URI …]`: what a search found best is trained on train and validation together.

A search of an ensemble's votes has trained nothing: its winner's members and weights are written as they are.

The winner alone becomes a bundle. Or several trials, of one search or of several families' searches, become an
ensemble: chosen greedily by what they said of images that they had not learned (`mskray.tuning.greedy`), each trained
anew into `<out>/members`, the vote calibrated on those same answers, since the new bundles have learned these images.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from types import MappingProxyType
from typing import Any

import numpy as np

from mskray import cluster
from mskray.bundles import Bundle
from mskray.cohorts import Cohort
from mskray.config import merge
from mskray.ensemble import DESCRIPTION, Ensemble, join, save_ensemble
from mskray.errors import UserError
from mskray.evaluation.studies import read_predictions
from mskray.progress import Progress, Report, silent
from mskray.storage import Location, check_access, locate
from mskray.tuning.ballots import weights_of
from mskray.tuning.figures import sign
from mskray.tuning.greedy import Candidate, check_vote_metric, select
from mskray.verbs.ensemble import calibrated, check_no_bundle, check_there
from mskray.verbs.searches import Chosen, Found
from mskray.verbs.train import fingerprint_of, finished, train
from mskray.verbs.votes import collect

MEMBERS = "members"
_THREADS = 16


def promote(
    searches: Sequence[str],
    out: str,
    *,
    ensemble: int = 0,
    resources: Mapping[str, Any] = MappingProxyType({}),
    report: Report = silent,
) -> Bundle | Ensemble:
    """Train the winner of a search, or the members of an ensemble, on train and validation, and write it to `out`.

    The winner of a search of votes becomes an ensemble of the bundles that it chose, as they are.

    The same call goes on where an interrupted one stopped; what is there is not trained again.

    Args:
        searches: URIs of searches on the same task of the same cohort; without `ensemble` one.
        ensemble: members at most; 0 for the winner alone.
        resources: by which each training's differ from those of its search.
    Raises:
        UserError: before any training, where the searches, their cohort, `out` or the number of members does not do;
            later as `mskray.verbs.train.train`.
    """
    target = locate(out)
    if ensemble < 0:
        raise UserError(f"an ensemble of {ensemble}: give the number of members, 1 at least")
    if not searches:
        raise UserError("nothing to promote: give the URI of a search")
    check_access(target, write=True)
    found = [Found.open(uri) for uri in searches]
    votes = next((each for each in found if each.description.of_votes), None)
    if votes is not None and (ensemble or len(found) > 1):
        raise UserError(f"{votes} is a search of an ensemble's votes: promote it alone, and name no number of members")
    if votes is not None or ensemble:
        check_no_bundle(target)
    if votes is not None:
        return _elected(votes, target, report)
    if ensemble:
        return _ensemble(found, target, ensemble, resources, report)
    if len(found) > 1:
        raise UserError(
            f"{len(found)} searches have a winner each: give one search, or ask for an ensemble with --ensemble N"
        )
    if target.join(DESCRIPTION).is_file():
        raise UserError(f"{target} holds an ensemble: give the bundle a folder of its own")
    best = found[0].winner
    report(Progress(str(best)))
    _tell_what_is_left(found[0].cohort, report)
    return train(*best.job(target, resources), report=report, search=best.told())


def _elected(found: Found, out: Location, report: Report) -> Ensemble:
    """Write the ensemble of the winner's members and weights, calibrated on what they said in the search."""
    best = found.winner
    members = merge(found.description.base, best.row.parameters)["members"]
    weights = weights_of(members)
    uris = [members[name]["uri"] for name in weights]
    check_there(out, uris, list(weights.values()))
    joined = join(uris, out.name, list(weights.values()))
    for name, member in zip(weights, joined.members, strict=True):
        if member.hash != members[name]["hash"]:
            raise UserError(f"bundle {member.uri} has changed since the search {found}: search anew, or bring it back")
    ballots = collect(found.ledger.folder, members, found.cohort, found.task, report)
    report(Progress(str(best)))
    labels = ballots.rows["label"].to_numpy()
    made = calibrated(joined, ballots.vote(weights), labels, _judged_in([found]), report)
    save_ensemble(made, out)
    return made


def _judged_in(found: Sequence[Found]) -> str:
    """What an ensemble is calibrated on, that was chosen by these searches."""
    uris, cohort = ", ".join(str(each) for each in found), found[0].cohort
    return f"{cohort.location} validation as judged in {uris} {cohort.content_hash[:16]}"


def _ensemble(
    found: Sequence[Found], out: Location, most: int, resources: Mapping[str, Any], report: Report
) -> Ensemble:
    _check_together(found)
    ready, candidates = _candidates(found, report)
    classes = found[0].task.classes
    selection = select(candidates, classes, found[0].metric, most, report)
    members = [ready[each.candidate] for each in selection.members]
    weights = [float(each.count) for each in selection.members]
    places = _places(out, members)
    check_there(out, [str(place) for place in places], weights)
    fewer = f", as good as any vote of {most}" if len(members) < most else ""
    report(Progress(f"{found[0].metric} {selection.figure:.4f} of {len(members)} voting in the search{fewer}"))
    _tell_what_is_left(found[0].cohort, report)
    _train_all(members, places, resources, report)
    joined = join([str(place) for place in places], out.name, weights)
    images = [read_predictions(candidates[each.candidate].table, list(classes))[0] for each in selection.members]
    votes = np.tensordot(np.array(weights) / sum(weights), np.stack([each.prob for each in images]), axes=1)
    made = calibrated(joined, votes, images[0].label, _judged_in(found), report)
    save_ensemble(made, out)
    return made


def _tell_what_is_left(cohort: Cohort, report: Report) -> None:
    """What is promoted learns from train and validation; say where nothing else can judge it."""
    if "test" not in cohort.splits:
        report(Progress(f"no test split in {cohort.location}: only another cohort can judge what is promoted"))


def _check_together(found: Sequence[Found]) -> None:
    """Raise UserError where searches cannot be members of one ensemble."""
    first = found[0]
    check_vote_metric(first.metric)
    for number, each in enumerate(found[1:], start=1):
        if any(str(each) == str(other) for other in found[:number]):
            raise UserError(f"search {each} is given twice: give it once")
        for what, mine, other in (
            ("cohort", first.cohort.content_hash[:16], each.cohort.content_hash[:16]),
            ("task", first.task.name, each.task.name),  # of the same cohort: with the same classes
            ("metric", first.metric, each.metric),
        ):
            if mine != other:
                raise UserError(
                    f"searches {first} and {each} are of different {what}s ({mine}, {other}): the members of an "
                    "ensemble answer one question and are compared by one metric; promote them apart"
                )


def _candidates(found: Sequence[Found], report: Report) -> tuple[list[Chosen], list[Candidate]]:
    """What has finished in all searches, the best first, with what was said of the validation images.

    A row that could not judge some images of its search, such as pictures without a key point, is left out and told:
    no vote is possible on what one member cannot judge.
    """
    kept: list[list[tuple[Chosen, Candidate]]] = []
    for search in found:
        rows = search.finished()
        with ThreadPoolExecutor(_THREADS) as pool:
            tables = list(pool.map(lambda each: each.found.ledger.predictions(each.row.id), rows))
        most = max(len(table) for table in tables)
        for row, table in zip(rows, tables, strict=True):
            if len(table) < most:
                report(Progress(f"{row.name} is left out: it could judge {len(table)} of {most} images only"))
        pairs = zip(rows, tables, strict=True)
        kept.append([(row, Candidate(row.name, table)) for row, table in pairs if len(table) == most])
    # Each search keeps its order, in which rows of several seeds come before those of one.
    merged = []
    while any(kept):
        best = max((rows for rows in kept if rows), key=lambda rows: sign(found[0].metric) * rows[0][0].figure)
        merged.append(best.pop(0))
    return [row for row, _ in merged], [candidate for _, candidate in merged]


def _places(out: Location, members: Sequence[Chosen]) -> list[Location]:
    """A folder for each member; where two searches have trials of the same name, the later one is numbered."""
    names: list[str] = []
    for each in members:
        same = sum(name == each.name or name.startswith(f"{each.name}-") for name in names)
        names.append(f"{each.name}-{same + 1}" if same else each.name)
    return [out.join(MEMBERS, name) for name in names]


def _train_all(
    members: Sequence[Chosen], places: Sequence[Location], resources: Mapping[str, Any], report: Report
) -> None:
    """Train what is not there yet; what cannot be trained, or would write over another bundle, is refused first."""
    jobs = [each.job(place, resources) for each, place in zip(members, places, strict=True)]
    left = False
    for each, place, (job, chosen, config) in zip(members, places, jobs, strict=True):
        seen = job.view(each.found.cohort)
        chosen.check(seen, config, chosen.task(seen, job.task))
        left |= finished(place, fingerprint_of(job, chosen, config, seen)) is None
    with cluster.session() if left else nullcontext():
        for number, (each, whole) in enumerate(zip(members, jobs, strict=True), start=1):
            report(Progress(f"{number} of {len(jobs)}: {each.found.family.name}, {each}"))
            train(*whole, report=report, search=each.told(len(members)))
