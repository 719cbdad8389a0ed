"""What a bundle says of itself to people: `card.md`."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from mskray.cohorts.schema import ImageFormat

if TYPE_CHECKING:
    from mskray.bundles import Bundle, Search

_HELD_OUT = "`mskray evaluate` gives those of held-out studies, with intervals."
_OUT_OF_BAG = "out_of_bag_"


def card(bundle: "Bundle") -> str:
    """Write the model card in Markdown."""
    plural = "studies" if bundle.sample == "study" else f"{bundle.sample}s"
    shape = " × ".join(map(str, ImageFormat.model_validate(bundle.image).shape))
    return "\n".join(
        [
            f"# {bundle.name}",
            "",
            f"A `{bundle.family}` that tells {_questions(bundle)}, made by mskray {bundle.versions['mskray']} on "
            f"{bundle.created}.",
            "",
            "Not a medical device: for research, not for diagnosis.",
            "",
            "## Data",
            "",
            f"- cohort `{bundle.cohort['uri']}`, content hash `{bundle.cohort['content_hash'][:16]}`",
            *_added(bundle),
            f"- body parts: {', '.join(bundle.body_parts)}",
            *_labels(bundle, plural),
            f"- images of {shape} px, {bundle.image['dtype']}",
            "",
            *_figures(bundle),
            "## Limits",
            "",
            "- It knows the body parts above and nothing else; on others its probabilities mean nothing.",
            "- Probabilities are not calibrated unless the above or an ensemble that contains it says so.",
            "",
        ]
    )


def _added(bundle: "Bundle") -> list[str]:
    """Lines with the cohorts that were learned beside the first."""
    return [
        f"- added to its train split: cohort `{each.uri}`, content hash `{each.content_hash[:16]}`: {each.images:,} "
        f"images, in place of {each.replaced:,} that show the same; {each.left_out:,} left out as held out"
        for each in bundle.added
    ]


def _questions(bundle: "Bundle") -> str:
    """What it tells apart, on which kind of image."""
    tasks = bundle.tasks or {bundle.task: bundle.classes}
    several = [f"{' from '.join(classes)} (task `{name}`)" for name, classes in tasks.items()]
    return f"{', '.join(several)} on {bundle.kind}s"


def _labels(bundle: "Bundle", plural: str) -> list[str]:
    """Lines with the labels learned from, one a task."""
    if not bundle.tasks:
        return [f"- training {plural}: {_shares(bundle.labels)}"]
    lines = []
    for task, classes in bundle.tasks.items():
        counts = {name: bundle.labels[f"{task}/{name}"] for name in classes}
        lines.append(f"- training {plural} with a label of {task}: {_shares(counts)}")
    return lines


def _shares(counts: dict[str, int]) -> str:
    total = sum(counts.values())
    return f"{total:,}: " + ", ".join(f"{name} {count:,} ({count / total:.0%})" for name, count in counts.items())


def _figures(bundle: "Bundle") -> list[str]:
    """What the validation split was used for, and what is known of how good it is."""
    if not bundle.history:
        lines = ["## Validation", "", f"None: it learned nothing of its own. {_HELD_OUT}", ""]
    elif "validation" in bundle.learned:
        lines = _all_learned(bundle)
    else:
        lines = _validation(bundle)
    return [*lines, *(_searched(bundle.search) if bundle.search else [])]


def _validation(bundle: "Bundle") -> list[str]:
    level = f"## Validation, {bundle.sample} level"
    if bundle.sample == "pair":
        used = f"Nothing was chosen or fitted on this split. {_HELD_OUT}"
    elif bundle.has_estimator:
        used = f"Probabilities were calibrated on this split: these figures flatter, the loss most. {_HELD_OUT}"
    else:
        level += f", epoch {bundle.best['epoch']} of {bundle.epochs}"
        used = f"The epoch was chosen on this split: these figures flatter. {_HELD_OUT}"
    return [level, "", used, "", *_table(_named(bundle, "val_"))]


def _all_learned(bundle: "Bundle") -> list[str]:
    """Of a bundle that learned from the validation split too."""
    said, found = (
        "It learned from the train and the validation split: nothing was held back",
        _named(bundle, _OUT_OF_BAG),
    )
    if not found:
        kept = "" if bundle.has_estimator else ", the last epoch was kept"
        return ["## Validation", "", f"None. {said}{kept}. {_HELD_OUT}", ""]
    how = (
        "Probabilities were calibrated out of bag: each image judged by the machines that were given no image of its "
        "patient. So are these figures."
    )
    return [f"## Out of bag, {bundle.sample} level", "", f"{said}. {how} {_HELD_OUT}", "", *_table(found)]


def _searched(search: "Search") -> list[str]:
    """Figures of the search that chose the config, and why they flatter."""
    how = f"by cross-validation over {search.folds} folds" if search.folds > 1 else "on the validation split"
    seeds = f", mean over {search.seeds} seeds" if search.seeds > 1 else ""
    over = f" ± is the standard deviation over {search.over}." if search.over else ""
    chosen = "It is the best" if search.members == 1 else f"It is one of {search.members} chosen to vote together"
    return [
        "## The search that chose it",
        "",
        f"Trial `{search.trial}` of `{search.uri}`. These figures are of models with the same config that had not "
        f"learned the images they were judged on, {how}{seeds}; they are not of this bundle.{over} {chosen} of "
        f"{search.trials} trials compared by `{search.metric}` on the same images: the figures flatter, and the more "
        f"so the more trials there were. {_HELD_OUT}",
        "",
        *_table(search.figures, search.spread),
    ]


def _named(bundle: "Bundle", prefix: str) -> dict[str, float]:
    return {key.removeprefix(prefix): value for key, value in bundle.best.items() if key.startswith(prefix)}


def _table(figures: Mapping[str, float], spread: Mapping[str, float] = MappingProxyType({})) -> list[str]:
    rows = [
        f"| {name} | {value:.3f}{f' ± {spread[name]:.3f}' if name in spread else ''} |"
        for name, value in figures.items()
    ]
    return ["| figure | value |", "| --- | --- |", *rows, ""]
