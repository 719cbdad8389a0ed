"""A model of several tasks over a cohort's splits: every task's labels and probabilities in one table."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from mskray import ensemble
from mskray.bundles import DESCRIPTION, read_description
from mskray.cohorts import Cohort, Task
from mskray.errors import UserError
from mskray.prediction.batch import Predicting
from mskray.progress import Report, silent
from mskray.storage import locate

IDENTITY = ("instance_id", "study_id", "patient_id", "split")


def answers_tasks(model: str) -> bool:
    """Whether a URI is that of a bundle with several tasks."""
    location = locate(model)
    return location.join(DESCRIPTION).is_file() and bool(read_description(location).tasks)


def predict_tasks(
    model: str, cohort: Cohort, splits: Sequence[str], *, workers: int = 1, gpu: bool = False, report: Report = silent
) -> pa.Table:
    """Predict every image of the splits once, in a running Ray session.

    Args:
        model: URI of a bundle with tasks.
    Returns:
        One row an image, ordered by split, study and view: `instance_id`, `study_id`, `patient_id`, `split`, then of
        each task that bundle and cohort share `label_<task>` (null where missing) and `<task>:prob_<class>`.
    Raises:
        UserError: no task in common, one whose classes differ, or as `Predicting.cohort`.
    """
    bundle = read_description(model)
    tasks = shared_tasks(bundle.tasks, cohort, model)
    table = Predicting(model, ensemble.describe(model), workers, gpu, report).cohort(cohort, splits, need_labels=False)
    labels = [cohort.metadata(split, ["instance_id", *(task.column for task in tasks)]) for split in splits]
    known = pa.concat_tables(labels)
    places = pc.index_in(table["instance_id"], known["instance_id"])
    columns = {name: table[name] for name in IDENTITY}
    for task in tasks:
        columns[task.column] = known[task.column].take(places)
        columns |= {name: table[name] for name in (f"{task.name}:prob_{each}" for each in task.classes)}
    return pa.table(columns)


def shared_tasks(known: dict[str, tuple[str, ...]], cohort: Cohort, model: str) -> tuple[Task, ...]:
    """Return the cohort's tasks that a model knows, given the classes of each.

    Raises:
        UserError: there is none, or one has other classes: a label is an index into them.
    """
    tasks = tuple(task for task in cohort.tasks if task.name in known)
    if not tasks:
        has = ", ".join(task.name for task in cohort.tasks) or "none"
        raise UserError(f"cohort {cohort.location} has no task of {model} ({', '.join(known)}): its tasks are {has}")
    for task in tasks:
        if task.classes != known[task.name]:
            raise UserError(
                f"cohort {cohort.location}, task {task.name}: its classes are {', '.join(task.classes)}, those of "
                f"{model} are {', '.join(known[task.name])}: use a cohort of the same classes in the same order"
            )
    return tasks
