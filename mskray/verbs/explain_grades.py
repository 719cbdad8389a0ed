"""`mskray explain BUNDLE COHORT --task NAME --out DIR`: in which voxels of discs a network sees reasons for a grade.

For each disc a folder `<task>/<its instance's name>`: a montage of its slices a method with the map over them,
`maps.npz`, `explanation.json`. The cohort needs no labels; what it has is shown beside what was called.
"""

from dataclasses import dataclass

import numpy as np

from mskray.bundles import DESCRIPTION, Bundle, read_description
from mskray.cohorts import Cohort, Task, open_cohort
from mskray.cohorts.schema import MISSING
from mskray.errors import UserError, did_you_mean
from mskray.explain.methods import check_methods
from mskray.families import Images, StackExplainer, load_predictor
from mskray.prediction.tasks import shared_tasks
from mskray.progress import Progress, Report
from mskray.storage import Location
from mskray.verbs.explanation_files import Graded, write_hotspots

HOTSPOTS, SALIENCY = "hotspots", "saliency"
STACK_METHODS = (HOTSPOTS, SALIENCY)
"""SpineNet's evidence hotspots, and the single pass that these are a mean of, Simonyan's saliency."""
COPIES = 64
_DISCS = 8


@dataclass(frozen=True)
class Request:
    """What of a cohort is to be explained.

    Args:
        task: one that the bundle answers.
        split: of the cohort.
        limit: discs, in the order of their instances' names, which is that of no patient; all when None.
        copies: augmented ones that hotspots are averaged over.
        methods: names of STACK_METHODS.
        target: class of the task; the one called of each disc when None.
        gpu: whether the network runs on one.
    """

    task: str | None = None
    split: str = "test"
    limit: int | None = None
    copies: int = COPIES
    methods: tuple[str, ...] = STACK_METHODS
    target: str | None = None
    gpu: bool = False


def explain_grades(model: Location, place: Location, folder: Location, request: Request, report: Report) -> int:
    """Explain discs of a cohort, write `<task>/<disc>` below `folder` for each, and return how many they were.

    Raises:
        UserError: before any work, when bundle, cohort or what is asked for does not do.
    """
    check_methods(request.methods, STACK_METHODS)
    if request.copies < 1 or (request.limit is not None and request.limit < 1):
        raise UserError("--copies and --limit are 1 or more")
    bundle = _described(model, place)
    classes = bundle.tasks[_task(request.task, bundle, model)]
    if request.target is not None and request.target not in classes:
        raise UserError(f"--class {request.target}: the classes of {request.task} are {', '.join(classes)}")
    cohort = open_cohort(place)
    if cohort.manifest.kind != bundle.kind:
        raise UserError(f"{model} learned from {bundle.kind}s, {place} holds {cohort.manifest.kind}s: give another one")
    names, levels, labels = _listed(cohort, Task(name=str(request.task), classes=classes), request, str(model))
    report(Progress("loading the model"))
    _, predictor = load_predictor(model, "cuda" if request.gpu else "cpu")
    assert isinstance(predictor, StackExplainer)  # every bundle with tasks
    for start in range(0, len(names), _DISCS):
        some = names[start : start + _DISCS]
        found = cohort.images(request.split, some)
        images = Images([found[name] for name in some])
        said = predictor(images).parts[str(request.task)]
        target = said.argmax(axis=1) if request.target is None else np.full(len(some), classes.index(request.target))
        maps = {}
        for method in request.methods:
            copies = request.copies if method == HOTSPOTS else 1
            shown, maps[method] = predictor.hotspots(images, str(request.task), target, copies)
        for place_in, name in enumerate(some):
            at = start + place_in
            told = Graded(name, levels[at], bundle.name, str(request.task), classes, said[place_in], labels[at])
            mine = {method: each[place_in] for method, each in maps.items()}
            write_hotspots(folder.join(told.task, name), told, int(target[place_in]), shown[place_in], mine)
        report(Progress("explain", start + len(some), len(names)))
    return len(names)


def _described(model: Location, cohort: Location) -> Bundle:
    """The bundle's description. Raises UserError for one that grades no discs."""
    bundle = read_description(model) if model.join(DESCRIPTION).is_file() else None
    if bundle is None or not bundle.tasks:
        what = f"a bundle of family {bundle.family}" if bundle else "an ensemble"
        raise UserError(
            f"{cohort} is a cohort, of which a spinenet bundle can be explained, and {model} is {what}: give a "
            "spinenet bundle, or explain a model that tells classes apart on an image, a folder or a prefix of images"
        )
    return bundle


def _task(name: str | None, bundle: Bundle, model: Location) -> str:
    known = list(bundle.tasks)
    if name is None:
        raise UserError(f"{model} answers several tasks: say with --task which one is explained: {', '.join(known)}")
    if name not in known:
        raise UserError(f"--task {name}: {did_you_mean(name, known)}the tasks of {model} are {', '.join(known)}")
    return name


def _listed(cohort: Cohort, task: Task, request: Request, model: str) -> tuple[list[str], list[str], list[int | None]]:
    """Instance, view ("" where there is none) and label (None where it is not known) of each disc that is explained."""
    labelled = any(each.name == task.name for each in cohort.tasks)
    if labelled:
        shared_tasks({task.name: task.classes}, cohort, model)  # refuses other classes
    columns = cohort.columns(request.split, ["instance_id", "view", *([task.column] if labelled else [])])
    chosen = np.argsort(columns["instance_id"].astype(str), kind="stable")[: request.limit]
    names, views = columns["instance_id"][chosen].tolist(), columns["view"][chosen].tolist()
    labels = columns[task.column][chosen].tolist() if labelled else [MISSING] * len(chosen)
    return names, [view or "" for view in views], [None if label == MISSING else label for label in labels]
