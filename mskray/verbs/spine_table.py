"""`mskray spine-table CONFIG.yaml [section.key=value …]`: SpineNet's Table 2, trained, evaluated and printed.

The config is a training job of `spinenet` whose `out` is a folder: a bundle for each branch point goes there, and
another for which validation and test are exchanged (`conv5`, `conv5-exchanged`), each with its evaluation, then
`spine-table.json` and `spine-table.md`. What is there already is not made again, so an interrupted table goes on where
it stopped, and branch points trained elsewhere can be put beside each other. Of those that are there, a model of
another config or cohort than the others is left out of the table, with a word.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

from mskray.bundles import DESCRIPTION, Bundle, read_description
from mskray.cohorts import Cohort, Task, open_cohort
from mskray.cohorts.schema import SECOND
from mskray.config import Section, apply_overrides
from mskray.errors import UserError, did_you_mean
from mskray.evaluation.grading import intra_rater
from mskray.evaluation.places import evaluation_folder
from mskray.evaluation.spinenet_table import PAPER, PAPER_INTRA_RATER, blocks, summary, to_dict
from mskray.families import Family
from mskray.families.spinenet import SpineNetFamily
from mskray.models.vgg_m import BRANCHES
from mskray.progress import Progress, Report, silent
from mskray.storage import Location, check_access, locate
from mskray.verbs.grading import GRADING, evaluate_tasks
from mskray.verbs.tables import table as draw
from mskray.verbs.train import TrainJob, fingerprint_of, finished, parse_job, train

JSON, MARKDOWN = "spine-table.json", "spine-table.md"
SCHEMA_VERSION = 1
HELD_OUT = "test"


def spine_table(
    data: Mapping[str, Any], where: str, branches: Sequence[str] = BRANCHES, report: Report = silent
) -> tuple[str, Location]:
    """Train and evaluate what is not there yet, write the table, and return it as text with its folder.

    Args:
        data: the job, as `mskray train` takes it; without `tasks.names`, every task of the cohort that is no second
            reading (`<task>_second`).
        where: what to call it in messages.
        branches: branch points to train; those that are in the folder already are shown with them.
    Raises:
        UserError: before any training, where the config, the cohort or a branch point does not do, or where one of
            the bundles to train is there already, of another job.
    """
    for branch in branches:
        if branch not in BRANCHES:
            raise UserError(
                f"{where}: no branch point {branch!r}: {did_you_mean(branch, BRANCHES)}there are {', '.join(BRANCHES)}"
            )
    base, chosen, config = parse_job(data, where)
    if not isinstance(chosen, SpineNetFamily):
        raise UserError(f"{where}: family {chosen.name} has no branch points: spine-table trains {SpineNetFamily.name}")
    if base.exchange or base.merge:
        raise UserError(
            f"{where}: spine-table trains with validation and test as they are and exchanged: leave out exchange "
            "and merge"
        )
    out = locate(base.out)
    check_access(locate(base.cohort))
    check_access(out, write=True)
    cohort = open_cohort(base.cohort)
    tasks = chosen.tasks(cohort, config)
    cohort.shards(HELD_OUT)  # a cohort without it is refused here
    readings = second_readings(cohort, tasks)
    known: dict[tuple[str, bool], tuple[TrainJob, Family, Any]] = {}
    for branch, exchanged in product(BRANCHES, (False, True)):
        words = [f"network.branch={branch}", f"exchange={str(exchanged).lower()}"]
        words.append(f"out={_place(out, branch, exchanged)}")
        known[branch, exchanged] = parse_job(apply_overrides({**data, "tasks": _named(data, tasks)}, words), where)
    jobs = {key: known[key] for key in product(branches, (False, True))}
    for (branch, exchanged), job in jobs.items():
        seen = _seen(cohort, exchanged)
        chosen.check(seen, job[2], chosen.task(cohort, ""))
        finished(_place(out, branch, exchanged), fingerprint_of(*job, seen))
    for number, ((branch, exchanged), job) in enumerate(jobs.items(), start=1):
        name = f"{branch}, validation and test exchanged" if exchanged else branch
        report(Progress(f"{number} of {len(jobs)}: {name}"))
        bundle = train(*job, report=report)
        place, seen = _place(out, branch, exchanged), _seen(cohort, exchanged)
        if _evaluation(place, seen, bundle) is None:
            evaluate_tasks(str(place), seen, HELD_OUT, gpu=base.resources.gpu, report=report)
    return write_table(out, cohort, tasks, readings, {key: job[2] for key, job in known.items()}), out


def write_table(
    out: Location,
    cohort: Cohort,
    tasks: Sequence[Task],
    readings: Mapping[str, float],
    configs: Mapping[tuple[str, bool], Section],
) -> str:
    """Write `spine-table.json` and `spine-table.md` of the evaluations below a folder; return the table as text.

    Args:
        readings: of `second_readings`.
        configs: (branch point, whether validation and test are exchanged) → the config that its model must have.
    """
    models: dict[str, list[dict[str, Any]]] = {}
    left_out: dict[str, str] = {}
    for (branch, exchanged), config in configs.items():
        place, seen = _place(out, branch, exchanged), _seen(cohort, exchanged)
        content = _evaluation(place, seen)
        if content is None:
            continue
        reason = _stranger(place, seen, config, content)
        if reason is None:
            models.setdefault(branch, []).append(content)
        else:
            left_out[place.name] = reason
    confusions = {
        branch: [{task: each["confusion"] for task, each in content["tasks"].items()} for content in contents]
        for branch, contents in models.items()
    }
    found = summary(confusions, tasks)
    made = blocks(found, tasks, readings)
    out.join(JSON).write_json(
        {
            "schema_version": SCHEMA_VERSION,
            "cohort": {"uri": str(cohort.location), "content_hash": cohort.content_hash},
            "tasks": [task.name for task in tasks],
            "figures": to_dict(found),
            "intra_rater": readings,
            "models": models,
            "left_out": left_out,
            "paper": {"average_per_class_accuracy": _paper(), "intra_rater": PAPER_INTRA_RATER},
        }
    )
    said = [f"left out: {name} ({reason})" for name, reason in left_out.items()]
    out.join(MARKDOWN).write_bytes(("\n\n".join([*(block.markdown() for block in made), *said]) + "\n").encode())
    drawn = "\n\n".join(f"{block.title}\n{draw(block.columns, block.rows)}" for block in made)
    return "\n".join([drawn, *said])


def second_readings(cohort: Cohort, tasks: Sequence[Task]) -> dict[str, float]:
    """Average per-class agreement of the two readings of each task that the cohort has two of, over all its splits.

    Raises:
        UserError: the two have other classes.
    """
    known = {task.name: task for task in cohort.tasks}
    twice = [(task, known[task.name + SECOND]) for task in tasks if task.name + SECOND in known]
    found = {}
    for first, second in twice:
        if first.classes != second.classes:
            raise UserError(
                f"cohort {cohort.location}: {second.name} has other classes than {first.name}: no second reading of it"
            )
        columns = [cohort.columns(split, [first.column, second.column]) for split in cohort.splits]
        one, two = (np.concatenate([each[task.column] for each in columns]) for task in (first, second))
        agreement = intra_rater(one, two, len(first.classes))
        if agreement is not None:
            found[first.name] = agreement
    return found


def _evaluation(place: Location, cohort: Cohort, bundle: Bundle | None = None) -> dict[str, Any] | None:
    """What `grading.json` says of a model on this cohort, and None where there is none, or it is of another bundle."""
    path = evaluation_folder(place, cohort, HELD_OUT).join(GRADING)
    if not path.is_file():
        return None
    content: dict[str, Any] = path.read_json()
    return content if bundle is None or content["bundle_hash"] == bundle.hash else None


def _stranger(place: Location, seen: Cohort, config: Section, content: Mapping[str, Any]) -> str | None:
    """Why a model that is there does not belong beside the others; None where it does."""
    if not place.join(DESCRIPTION).is_file():
        return "its bundle is gone"
    bundle = read_description(place)
    if content["bundle_hash"] != bundle.hash:
        return "its evaluation is of another bundle"
    if bundle.cohort["content_hash"] != seen.content_hash:
        return "trained on another cohort"
    return _difference(config.model_dump(mode="json"), bundle.config)


def _difference(wanted: Mapping[str, Any], found: Mapping[str, Any], above: str = "") -> str | None:
    """The first setting that differs, and how; None where all are the same."""
    for name in dict.fromkeys((*wanted, *found)):
        one, other = wanted.get(name), found.get(name)
        if isinstance(one, dict) and isinstance(other, dict):
            deeper = _difference(one, other, f"{above}{name}.")
            if deeper:
                return deeper
        elif one != other:
            return f"{above}{name} is {other}, here {one}"
    return None


def _place(out: Location, branch: str, exchanged: bool) -> Location:
    return out.join(f"{branch}-exchanged" if exchanged else branch)


def _seen(cohort: Cohort, exchanged: bool) -> Cohort:
    return cohort.exchange() if exchanged else cohort


def _named(data: Mapping[str, Any], tasks: Sequence[Task]) -> dict[str, Any]:
    return {**(data.get("tasks") or {}), "names": [task.name for task in tasks]}


def _paper() -> dict[str, Any]:
    return {
        branch: {task: {"mean": each.mean, "sd": each.sd} for task, each in of_task.items()}
        for branch, of_task in PAPER.items()
    }
