"""The report's words: names and definitions of the figures, and what they mean in plain sentences.

A reader who opens the report should know after one sentence what was tested and what was found and missed.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from mskray.evaluation.bootstrap import CONFIDENCE, MINIMUM_PATIENTS, Figure
from mskray.evaluation.calibration import BINS

if TYPE_CHECKING:
    from mskray.evaluation.result import Evaluation, Group

NOT_A_DEVICE = (
    "Not a medical device. For research only: mskray has not been cleared by any authority, and nothing in this "
    "report may be used to diagnose or treat a patient."
)

NAMES = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "f1": "F1",
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "kappa": "Cohen’s κ",
    "quadratic_kappa": "Quadratic weighted κ",
    "brier": "Brier score",
    "ece": "Expected calibration error",
}


class Method(NamedTuple):
    """An explanation method's name and how its map is to be read."""

    title: str
    note: str


METHODS = {
    "grad_cam": Method("Grad-CAM", "the network’s last map, a few coarse cells"),
    "guided_backprop": Method("Guided backprop", "the gradient of its score, less what a ReLU holds back, smoothed"),
    "saliency": Method("Saliency", "how much a change there would move its score, either way, smoothed"),
}

SPLIT_NOTES = {
    "train": "These are the samples that the model was trained on. The figures say nothing about new patients.",
    "validation": "The validation split chose the best epoch or settings, so these figures flatter the model a "
    "little. The test split gives the fair ones.",
}


def definitions(classes: Sequence[str], ordinal: bool) -> dict[str, str]:
    """One plain sentence for each figure, in the order of the report."""
    if len(classes) == 2:
        finding, other = classes[1], classes[0]
        of = {
            "sensitivity": f"Share of the {finding} samples that were called {finding}.",
            "specificity": f"Share of the {other} samples that were called {other}.",
            "f1": f"Harmonic mean of sensitivity and precision for {finding}.",
            "auroc": f"Probability that a random {finding} sample scores higher than a random {other} one; "
            "0.5 is chance, 1 is perfect, and the threshold plays no part.",
            "auprc": f"Average precision over all thresholds; chance gives the share of {finding} samples.",
            "brier": f"Mean squared difference between the probability of {finding} and the outcome; "
            "0 is perfect, and stating 0.5 always gives 0.25.",
        }
        stated = f"the probability of {finding}"
    else:
        of = {
            "sensitivity": "Share of a class’s samples that were called so, averaged over the classes that occur.",
            "specificity": "Share of the other samples that were not called so, averaged over the classes that occur.",
            "f1": "Harmonic mean of sensitivity and precision, averaged over the classes that occur.",
            "auroc": "Area under the ROC curve of each class against the rest, averaged over the classes that occur; "
            "0.5 is chance, 1 is perfect.",
            "auprc": "Average precision of each class against the rest, averaged over the classes that occur.",
            "brier": "Squared differences between probabilities and outcome, summed over the classes; 0 is perfect, "
            "2 the worst.",
        }
        stated = "the probability of the called class"
    texts = {
        "accuracy": "Share of the samples that were called correctly.",
        "balanced_accuracy": "Share called correctly in each class that occurs, averaged over the classes.",
        **of,
        "kappa": "Agreement with the reference beyond chance; 0 is chance, 1 is perfect.",
        "quadratic_kappa": "Agreement beyond chance where a disagreement counts by its squared distance in grades.",
        "ece": f"Mean gap between {stated} and the frequency observed, over {BINS} equal-width bins, each weighted "
        "by its samples; 0 is perfect. Small samples overstate it, and its interval is stretched to hold the value.",
    }
    return {name: texts[name] for name in NAMES if ordinal or name != "quadratic_kappa"}


def count(n: int, noun: str) -> str:
    """A number with its noun: "1 study", "1,199 studies"."""
    plural = noun[:-1] + "ies" if noun.endswith("y") else noun + "s"
    return f"{n:,} {noun if n == 1 else plural}"


def percent(share: float) -> str:
    """A share as a whole percentage with a no-break space: "86 %"."""
    return f"{100 * share:.0f}\u00a0%"


def interval(figure: Figure) -> str:
    """ "0.912 (0.880–0.941)", or "–" where there is no figure."""
    if figure.value is None:
        return "–"
    return f"{figure.value:.3f} ({figure.low:.3f}–{figure.high:.3f})"


def headline(evaluation: "Evaluation") -> str:
    """The result in one sentence, at study level."""
    group = evaluation.study.overall
    right = sum(group.confusion[index][index] for index in range(len(evaluation.classes)))
    if not evaluation.binary:
        sentence = f"It named the right one of {len(evaluation.classes)} classes in {right:,} of {_studies(group)}"
        if not evaluation.ordinal:
            return sentence + "."
        near = sum(
            n for truth, row in enumerate(group.confusion) for called, n in enumerate(row) if abs(truth - called) <= 1
        )
        return f"{sentence}, and was at most one grade off in {near:,}."
    other, finding = evaluation.classes
    (passed, alarms), (missed, found) = group.confusion
    parts = []
    if missed + found:
        parts.append(f"found {found:,} of {missed + found:,} {finding} studies and missed {missed:,}")
    if passed + alarms:
        parts.append(f"raised {count(alarms, 'false alarm')} among {passed + alarms:,} {other} ones")
    sentence = "It " + "; it ".join(parts) + "."
    return sentence.replace(" ones.", " studies.") if not missed + found else sentence


def lede(evaluation: "Evaluation", bundle: str, split: str) -> str:
    """What was tested, on what."""
    noun = "held-out study" if split == "test" else "study"
    text = f"{bundle or 'The model'} was tested on {count(evaluation.study.overall.n, noun)}"
    text += f" ({count(evaluation.counts['images'], 'image')}) of {count(evaluation.counts['patients'], 'patient')}"
    if evaluation.threshold is None:
        return f"{text}. The most probable class was called."
    finding = evaluation.classes[1]
    return f"{text}. A study was called {finding} from a probability of {evaluation.threshold:.3g} upwards."


def meanings(evaluation: "Evaluation") -> list[str]:
    """What the study-level figures mean, a sentence or two each."""
    group = evaluation.study.overall
    figures = group.figures
    lines: list[str] = []
    if evaluation.binary:
        other, finding = evaluation.classes
        (passed, alarms), (missed, found) = group.confusion
        for name, what, kind in (
            ("sensitivity", "it would miss", finding),
            ("specificity", "it would raise a false alarm in", other),
        ):
            figure = figures[name]
            if figure.value is None or figure.low is None or figure.high is None:
                continue
            if figure.value == 1.0:
                # Resampling a sample without errors never shows one; the chance of seeing none bounds their rate.
                most = 1 - (1 - CONFIDENCE) ** (1 / figure.patients)
                lines.append(
                    f"No error was seen among the {count(figure.n, f'{kind} study')}. From "
                    f"{count(figure.patients, 'patient')} alone, up to {100 * most:.0f} errors in 100 remain possible."
                )
                continue
            if figure.value == 0.0:
                people = count(figure.patients, "patient")
                lines.append(f"{count(figure.n, f'{kind} study')}, of {people}: every single one was called wrongly.")
                continue
            lines.append(
                f"Of 100 {kind} studies like these {what} about {100 * (1 - figure.value):.0f} "
                f"({percent(CONFIDENCE)} interval {100 * (1 - figure.high):.0f} to {100 * (1 - figure.low):.0f})."
            )
        if found + alarms and passed + missed and found + missed:
            lines.append(
                f"When it said {finding} it was right in {found:,} of {found + alarms:,} studies, and when it said "
                f"{other} in {passed:,} of {passed + missed:,}. Both depend on how common the finding is: here "
                f"{percent((found + missed) / group.n)} of the studies are {finding}. Where fewer are, more of its "
                "alarms are false."
            )
    kappa = figures["quadratic_kappa" if evaluation.ordinal else "kappa"]
    if kappa.value is not None:
        name = "quadratic weighted κ" if evaluation.ordinal else "κ"
        lines.append(
            f"Agreement with the reference labels beyond chance is {_landis_koch(kappa.value)} "
            f"({name} {kappa.value:.3f}, interval {kappa.low:.3f} to {kappa.high:.3f}; terms of Landis and Koch, 1977)."
        )
    ece = figures["ece"]
    if ece.value is not None:
        lines.append(f"Its probabilities were off by {100 * ece.value:.1f} percentage points on average.")
    return lines


def cautions(evaluation: "Evaluation", split: str) -> list[str]:
    """What a reader must know before trusting the figures; empty where nothing is out of the ordinary."""
    counts = evaluation.counts
    lines = [SPLIT_NOTES[split]] if split in SPLIT_NOTES else []
    group = evaluation.study.overall
    if group.patients < MINIMUM_PATIENTS:
        lines.append(f"{count(group.patients, 'patient')} are too few for any figure; at least {MINIMUM_PATIENTS}.")
    absent = [name for name, n in group.class_counts.items() if n == 0]
    if absent:
        lines.append(f"No study is {' or '.join(absent)}, so figures that compare the classes are missing.")
    if counts["failed"]:
        lines.append(f"Left out of every figure: {count(counts['failed'], 'image')} that got no prediction.")
    if counts["unlabelled"]:
        lines.append(f"Left out of every figure: {count(counts['unlabelled'], 'image')} without a label.")
    if counts["studies_lost"]:
        lines.append(f"That leaves no image of {count(counts['studies_lost'], 'study')}.")
    if counts["studies_disagreeing"]:
        highest = f"the study counts as {evaluation.classes[1]} if any of its images is"
        lines.append(
            f"Images of different labels in one study: {count(counts['studies_disagreeing'], 'study')}. There "
            + (highest if evaluation.binary else "the study takes the highest")
            + ". The mean of the views’ probabilities can then understate the finding."
        )
    if counts["images"] == counts["studies"]:
        lines.append("Every study has one image, so the figures by study and by image are the same.")
    return lines


def _studies(group: "Group") -> str:
    return count(group.n, "study")


def _landis_koch(kappa: float) -> str:
    if kappa < 0:
        return "poor"
    for bound, term in ((0.2, "slight"), (0.4, "fair"), (0.6, "moderate"), (0.8, "substantial")):
        if kappa <= bound:
            return term
    return "almost perfect"
