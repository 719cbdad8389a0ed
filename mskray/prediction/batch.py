"""A model over a cohort's split, or over any folder or prefix of image files.

    mskray predict BUNDLE|ENSEMBLE IN --out predictions.parquet

Ray Data reads and decodes in plain tasks and predicts in actors that load the model once. Every input has a row: a
file that cannot be decoded has its error there and no probabilities.
"""

import os
import time

import numpy as np
import pyarrow as pa
import ray
import torch
from ray.data import ActorPoolStrategy, Dataset
from ray.exceptions import RayError

from mskray import cluster
from mskray.cohorts import Cohort
from mskray.ensemble import Ensemble, check_members, load_members, matching_task
from mskray.errors import UserError, user_error_in
from mskray.families import Images
from mskray.prediction.readers import PIXELS, cohort_reader, file_reader, pixel_arrays
from mskray.progress import Progress, Report, silent
from mskray.storage import Location, locate

_BATCH = 32
# Files come in full resolution, some 20 MB a radiograph and up to 240 MB: a block and a batch hold few of them.
_FILES = 8
_READER_CPUS = 0.5


class Predicting:
    """How to predict: which model, on how many workers.

    Args:
        model: URI of a bundle or ensemble, for messages.
        ensemble: its description, with absolute URIs of its members.
        workers: actors, each with a CPU and, with `gpu`, a GPU.
    Raises:
        UserError: a member is missing, has changed or cannot be loaded.
    """

    def __init__(
        self, model: str, ensemble: Ensemble, workers: int = 1, gpu: bool = False, report: Report = silent
    ) -> None:
        self.model, self.ensemble, self.workers, self.gpu, self.report = model, ensemble, workers, gpu, report
        check_members(ensemble, model)

    def cohort(self, cohort: Cohort, split: str, need_labels: bool = True) -> pa.Table:
        """Predict every image of a split once.

        Args:
            need_labels: UserError where the cohort lacks the model's task. Without, every label is then null, as it
                is where the cohort's task has other classes.
        Returns:
            One row an image, ordered by study and view: identity, `label` (null where missing), `prob_<class>`,
            `error` (null).
        Raises:
            UserError: the split or the task is missing, or the task's classes are not the model's.
        """
        shards = [{"shard": number} for number in range(len(cohort.shards(split)))]
        name, classes = self.ensemble.task, self.ensemble.classes
        same = any(task.name == name and task.classes == tuple(classes) for task in cohort.tasks)
        column = matching_task(self.ensemble, cohort).column if need_labels or same else None
        read = cohort_reader(cohort, split, column)
        source = ray.data.from_items(shards, override_num_blocks=len(shards))
        table = self._run(source.map_batches(read, batch_size=1, num_cpus=_READER_CPUS), cohort.count(split))
        return table.sort_by([(name, "ascending") for name in ("study_id", "view_index", "instance_id")])

    def files(self, folder: Location) -> pa.Table:
        """Predict every file of a folder or prefix, or one file.

        Returns:
            One row a file, ordered by path: `path`, `body_part`, `prob_<class>` and `error`, one of them null.
        Raises:
            UserError: when there is no file.
        """
        single = folder.is_file()
        root = locate(folder.uri.rpartition("/")[0]) if single else folder
        paths = [folder.name] if single else [entry.path for entry in folder.walk()]
        if not paths:
            raise UserError(f"{folder} holds no files: give an image, a folder or prefix of images, or a cohort")
        source = ray.data.from_items([{"path": path} for path in paths], override_num_blocks=-(-len(paths) // _BATCH))
        read = source.map_batches(file_reader(root), batch_size=_FILES, num_cpus=_READER_CPUS)
        return self._run(read, len(paths), _FILES).sort_by("path")

    def _run(self, rows: Dataset, count: int, batch: int = _BATCH) -> pa.Table:
        cluster.require(cluster.Need("prediction", self.workers, 1.0, 1.0 if self.gpu else 0.0), _READER_CPUS)
        predicted = rows.map_batches(
            _Actor,
            fn_constructor_args=(self.ensemble, self.model, self.workers, self.gpu),
            batch_size=batch,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=self.workers),
            num_cpus=1,
            num_gpus=1 if self.gpu else 0,
        )
        self.report(Progress("loading the model"))
        parts, done, started = [], 0, time.monotonic()
        try:
            for part in predicted.iter_batches(batch_size=None, batch_format="pyarrow"):
                parts.append(part)
                done += len(part)
                rate = done / (time.monotonic() - started)
                self.report(Progress("predict", done, count, rate=rate, left_s=(count - done) / rate if rate else -1))
        except RayError as error:
            raise user_error_in(error) or error from error
        if done != count:
            raise RuntimeError(f"{count} images went in and {done} rows came out")
        return pa.concat_tables(parts, promote_options="permissive")


class _Actor:
    """One loaded model in a Ray Data actor."""

    def __init__(self, ensemble: Ensemble, name: str, workers: int, gpu: bool) -> None:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // workers))
        self._voter = load_members(ensemble, name, "cuda" if gpu else "cpu")

    def __call__(self, rows: pa.Table) -> pa.Table:
        classes = self._voter.classes
        probabilities = np.full((len(rows), len(classes)), np.nan, np.float32)
        readable = np.flatnonzero(rows["pixels"].is_valid().to_numpy())
        if len(readable):
            taken = rows.take(pa.array(readable))
            images = Images(list(pixel_arrays(taken)), taken["body_part"].to_pylist())
            probabilities[readable] = self._voter(images).probabilities
        absent = np.isnan(probabilities[:, 0])
        result = rows.drop_columns(list(PIXELS))
        for index, name in enumerate(classes):
            result = result.append_column(f"prob_{name}", pa.array(probabilities[:, index], mask=absent))
        return result
