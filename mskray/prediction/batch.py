"""A model over a cohort's split, or over any folder or prefix of image files.

    mskray predict BUNDLE|ENSEMBLE IN --out predictions.parquet

One process, whose threads read ahead, or a cluster (`on_ray`). Every input has a row: a file that cannot be decoded, or
that a model cannot judge, has its error there and no probabilities.
"""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from mskray.cohorts import Cohort
from mskray.cohorts.ahead import ahead
from mskray.ensemble import Ensemble, Vote, check_members, doubt, load_members, matching_task
from mskray.errors import UserError
from mskray.families import Images
from mskray.prediction.readers import PIXELS, Reader, cohort_reader, file_reader, list_files, pixel_arrays
from mskray.progress import Progress, Report, silent
from mskray.storage import Location

BATCH = 32
# Files come in full resolution, some 20 MB a radiograph and up to 240 MB: a block and a batch hold few of them.
_FILES = 8


class Predicting:
    """How to predict: which model, on how many workers.

    Args:
        model: URI of a bundle or ensemble, for messages.
        ensemble: its description, with absolute URIs of its members.
        workers: actors, each with a CPU and, with `gpu`, a GPU.
        here: predict in this process, without Ray: one worker on all of the machine's cores.
    Raises:
        UserError: a member is missing, has changed or cannot be loaded.
    """

    def __init__(
        self,
        model: str,
        ensemble: Ensemble,
        workers: int = 1,
        gpu: bool = False,
        report: Report = silent,
        here: bool = False,
    ) -> None:
        self.model, self.ensemble, self.workers, self.gpu, self.report = model, ensemble, workers, gpu, report
        self.here = here
        self.bundles = check_members(ensemble, model)
        self.kind = self.bundles[0].kind  # an ensemble's members are all of one kind

    def cohort(self, cohort: Cohort, splits: Sequence[str], need_labels: bool = True) -> pa.Table:
        """Predict every image of the splits once.

        Args:
            need_labels: UserError where the cohort lacks the model's task. Without, every label is then null, as it
                is where the cohort's task has other classes.
        Returns:
            One row an image, ordered by split, study and view: identity, `split`, `label` (null where missing),
            `prob_<class>`, `error` (null).
        Raises:
            UserError: a split or the task is missing, the task's classes are not the model's, or the model does not
                read cohorts of this kind.
        """
        if cohort.manifest.kind != self.kind:
            raise UserError(
                f"{self.model} reads cohorts of the kind {self.kind}, {cohort.location} is of the kind "
                f"{cohort.manifest.kind}: give it one that it can read"
            )
        shards = [{"split": split, "shard": number} for split in splits for number in range(len(cohort.shards(split)))]
        name, classes = self.ensemble.task, self.ensemble.classes
        same = any(task.name == name and task.classes == tuple(classes) for task in cohort.tasks)
        column = matching_task(self.ensemble, cohort).column if need_labels or same else None
        members = [(bundle.name, bundle.body_parts) for bundle in self.bundles]
        parts = [cohort.columns(split, ["body_part"])["body_part"].astype(str) for split in splits]
        for part in np.unique(np.concatenate(parts)):
            message = doubt(members, part)
            if message:
                self.report(Progress(message))
        read, count = cohort_reader(cohort, column), sum(cohort.count(split) for split in splits)
        # A shard holds whole studies, and so does a batch: some families look at all views of a study together.
        table = self._run(shards, read, 1, count)
        return table.sort_by([(name, "ascending") for name in ("split", "study_id", "view_index", "instance_id")])

    def listed(self, folder: Location) -> tuple[Location, list[str]]:
        """Return a root and the paths below it of every file of a folder or prefix, or of one file. Needs no Ray.

        Raises:
            UserError: when there is no file, or the model reads no pictures.
        """
        if self.kind != "radiograph":
            raise UserError(f"{self.model} reads cohorts of the kind {self.kind}, no files: make a cohort of {folder}")
        return list_files(folder)

    def files(self, root: Location, paths: Sequence[str]) -> pa.Table:
        """Predict files, as `listed` gives them.

        Returns:
            One row a file, ordered by path: `path`, `body_part`, `prob_<class>` and `error`, one of them null.
        """
        return self._run([{"path": path} for path in paths], file_reader(root), _FILES, len(paths)).sort_by("path")

    def _run(self, items: list[dict[str, Any]], read: Reader, size: int, count: int) -> pa.Table:
        """Read so many items together and predict their rows, `count` in all."""
        self.report(Progress("loading the model"))
        started = time.monotonic()
        rows = Gathered()
        for part in self._predicted(items, read, size):
            rows.add(part)
            rate = rows.count / (time.monotonic() - started)
            left_s = (count - rows.count) / rate if rate else -1
            self.report(Progress("predict", rows.count, count, rate=rate, left_s=left_s))
        if rows.count != count:
            raise RuntimeError(f"{count} images went in and {rows.count} rows came out")
        return rows.table()

    def _predicted(self, items: list[dict[str, Any]], read: Reader, size: int) -> Iterator[pa.Table]:
        if not self.here:
            from mskray.prediction.on_ray import predicted  # Ray alone takes three seconds

            yield from predicted(self.ensemble, self.model, self.workers, self.gpu, items, read, size)
            return
        predict = Loaded(self.ensemble, self.model, self.gpu)
        batches = (items[start : start + size] for start in range(0, len(items), size))
        given = ({name: np.array([each[name] for each in some]) for name in some[0]} for some in batches)
        readers = max(1, len(os.sched_getaffinity(0)) // 2)
        for rows in ahead(read, given, readers, readers + 1):
            yield from predict(rows)


class Gathered:
    """Tables of a few rows become one, of all columns that any has; null where a table has none.

    Rows are kept as Python's numbers and short texts, which lie in pages of their own. Small Arrow tables would lie
    between the blocks of tensors that come and go, and keep the heap from using these again: 2,000 images took 6 GB.
    """

    def __init__(self) -> None:
        self.count = 0
        self._columns: dict[str, list[Any]] = {}
        self._types: dict[str, pa.DataType] = {}

    def add(self, part: pa.Table) -> None:
        for name in part.column_names:
            if pa.types.is_null(self._types.setdefault(name, pa.null())):
                self._types[name] = part.schema.field(name).type
            self._columns.setdefault(name, [None] * self.count).extend(part[name].to_pylist())
        self.count += len(part)
        for values in self._columns.values():
            values.extend([None] * (self.count - len(values)))

    def table(self) -> pa.Table:
        return pa.table({name: pa.array(values, self._types[name]) for name, values in self._columns.items()})


class Loaded:
    """One loaded model: a table of rows with pixels in, tables of the same rows with probabilities out."""

    def __init__(self, ensemble: Ensemble, name: str, gpu: bool) -> None:
        self._voter = load_members(ensemble, name, "cuda" if gpu else "cpu")

    def __call__(self, rows: pa.Table) -> Iterator[pa.Table]:
        studies = rows["study_id"].to_pylist() if "study_id" in rows.column_names else None
        cuts = study_cuts(studies, BATCH) if studies else [0, len(rows)]
        for start, end in pairwise(cuts):
            yield self._predict(rows.slice(start, end - start))

    def _predict(self, rows: pa.Table) -> pa.Table:
        readable = rows["pixels"].is_valid().to_numpy()
        result = rows.drop_columns(list(PIXELS))
        if not readable.any():
            for name in self._voter.classes:
                result = result.append_column(f"prob_{name}", pa.nulls(len(rows), pa.float32()))
            return result
        taken = rows.filter(pa.array(readable))
        studies = taken["study_id"].to_pylist() if "study_id" in taken.column_names else None
        vote = self._voter(Images(list(pixel_arrays(taken)), taken["body_part"].to_pylist(), studies))
        columns = probability_columns(vote, self._voter.classes, self._voter.tasks)
        where = np.flatnonzero(readable)
        if vote.errors:
            errors = result["error"].to_pylist()
            for place, reason in vote.errors.items():
                errors[where[place]] = reason
                readable[where[place]] = False
            result = result.set_column(result.column_names.index("error"), "error", pa.array(errors, pa.string()))
        for name, values in columns.items():
            whole = np.full((len(rows), *values.shape[1:]), np.nan, np.float32)
            whole[where] = values
            result = result.append_column(name, _column(whole, readable))
        return result


def probability_columns(
    vote: Vote, classes: Sequence[str], tasks: Mapping[str, Sequence[str]] | None = None
) -> dict[str, np.ndarray]:
    """Columns of a vote on n images: `prob_<class>`, `<part>:prob_<class>` and `box_<name>` (n, 4).

    Parts are those of a single model, or the members where several vote.

    Args:
        tasks: classes of the parts that answer a task of their own; the others' are `classes`.
    """
    columns = {f"prob_{name}": vote.probabilities[:, index] for index, name in enumerate(classes)}
    parts = vote.parts or (vote.members if len(vote.members) > 1 else {})
    for part, probabilities in parts.items():
        names = (tasks or {}).get(part, classes)
        columns |= {f"{part}:prob_{name}": probabilities[:, index] for index, name in enumerate(names)}
    return columns | {f"box_{name}": boxes for name, boxes in vote.boxes.items()}


def study_cuts(studies: Sequence[str], most: int) -> list[int]:
    """Cut rows, studies side by side, into pieces of at most `most` rows that hold whole studies.

    Returns the pieces' ends, 0 first. A larger study is a piece of its own.
    """
    starts = [0, *(index for index in range(1, len(studies)) if studies[index] != studies[index - 1]), len(studies)]
    cuts = [0]
    for start, end in pairwise(starts):
        if end - cuts[-1] > most and start > cuts[-1]:
            cuts.append(start)
    return [*cuts, len(studies)]


def _column(values: np.ndarray, valid: np.ndarray) -> pa.Array:
    if values.ndim == 1:
        return pa.array(values, mask=~valid)
    rows = [row if present else None for row, present in zip(values, valid, strict=True)]
    return pa.array(rows, pa.list_(pa.float32()))
