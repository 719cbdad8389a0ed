"""`mskray explain BUNDLE|ENSEMBLE IMAGE|FOLDER|COHORT --out DIR`: where in images a model holds reasons for a class.

For each image a folder of its name: an overlay PNG a method, `maps.npz`, `explanation.json`. Of an ensemble each
member is explained, for one class: the one that the ensemble calls, or the one that was asked for. A cohort's discs
are explained by a bundle that grades them (`explain_grades.py`).
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mskray import ensemble
from mskray.cohorts.schema import MANIFEST
from mskray.errors import UserError
from mskray.explain.methods import METHODS, check_methods
from mskray.explaining import Explaining
from mskray.families import Images
from mskray.prediction.readers import list_files, read_radiograph
from mskray.progress import Progress, Report, silent
from mskray.storage import Location, check_access, locate
from mskray.verbs.explain_grades import STACK_METHODS, Request, explain_grades
from mskray.verbs.explanation_files import write_explanation

# Files come in full resolution, some 20 MB a radiograph and up to 240 MB.
_FILES = 8


@dataclass(frozen=True)
class Explained:
    """What a call of `explain` did: images explained, why each of the others is not readable, notes on the model."""

    images: int
    unreadable: dict[str, str]
    notes: list[str]


def explain(
    model: str,
    source: str,
    out: str,
    *,
    methods: Sequence[str] | None = None,
    target: str | None = None,
    task: str | None = None,
    split: str | None = None,
    limit: int | None = None,
    copies: int | None = None,
    gpu: bool = False,
    report: Report = silent,
) -> Explained:
    """Explain one image, every image of a folder or prefix, or discs of a cohort; write a folder for each below `out`.

    Args:
        methods: names of `mskray.explain.methods.METHODS`, for a cohort of `STACK_METHODS`; all that the model
            allows when None.
        target: name of the class to explain; the one called of each image when None.
        task, split, limit, copies: of a cohort, see `Request`.
        gpu: whether the model runs on one.
    Raises:
        UserError: before any work, when model, source, `out`, a method or the class does not do; at the end, when no
            image at all could be read.
    """
    check_methods(methods or (), dict.fromkeys([*METHODS, *STACK_METHODS]))
    location, place, folder = locate(model), locate(source), locate(out)
    for where, write in ((location, False), (place, False), (folder, True)):
        check_access(where, write)
    of_cohort = {"task": task, "split": split, "limit": limit, "copies": copies}
    given: dict[str, Any] = {name: value for name, value in of_cohort.items() if value is not None}
    if place.join(MANIFEST).is_file():
        _check_apart(folder, place, place)
        request = Request(target=target, methods=tuple(methods or STACK_METHODS), gpu=gpu)
        return Explained(explain_grades(location, place, folder, replace(request, **given), report), {}, [])
    described = ensemble.describe(location)
    if given:
        raise UserError(f"--{next(iter(given))} is for cohorts of discs, and {place} is none: leave it out")
    check_methods(methods or ())
    index = None if target is None else _class_index(target, described.classes)
    root, paths = list_files(place)
    _check_apart(folder, root, place)
    report(Progress("loading the model"))
    voter = ensemble.load_members(described, str(location), "cuda" if gpu else "cpu")
    explaining = Explaining(voter, methods or list(METHODS))
    if not explaining.possible or (methods and explaining.notes):
        raise explaining.refusal()
    unreadable: dict[str, str] = {}
    with ThreadPoolExecutor(_FILES) as pool:
        for start in range(0, len(paths), _FILES):
            batch = paths[start : start + _FILES]
            read = list(pool.map(lambda path: read_radiograph(root, path), batch))
            unreadable |= {path: error for path, (_, _, error) in zip(batch, read, strict=True) if error is not None}
            known = {
                path: (image, part) for path, (image, part, _) in zip(batch, read, strict=True) if image is not None
            }
            _explain_batch(explaining, known, index, folder)
            report(Progress("explain", start + len(batch), len(paths)))
    if len(unreadable) == len(paths):
        first = next(iter(unreadable))
        raise UserError(f"none of the {len(paths)} files at {place} can be read, first {first}: {unreadable[first]}")
    return Explained(len(paths) - len(unreadable), unreadable, explaining.notes)


def _explain_batch(
    explaining: Explaining, images: dict[str, tuple[np.ndarray, str]], target: int | None, folder: Location
) -> None:
    if not images:
        return
    pixels, parts = zip(*images.values(), strict=True)
    vote, explanations = explaining(Images(pixels, parts), target)
    for index, path in enumerate(images):
        write_explanation(folder.join(path), path, pixels[index], index, explaining.voter, vote, explanations)


def _check_apart(folder: Location, root: Location, place: Location) -> None:
    if folder.uri == root.uri or f"{folder.uri}/".startswith(f"{place.uri}/"):
        raise UserError(f"--out {folder} is where the images are that are explained: give a folder elsewhere")


def _class_index(name: str, classes: Sequence[str]) -> int:
    if name not in classes:
        raise UserError(f"--class {name}: the model's classes are {', '.join(classes)}")
    return classes.index(name)
