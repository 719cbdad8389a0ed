"""Published figures to show beside ours, each with the images it was measured on.

A figure can be compared with ours only when both rest on the same samples. The hidden MURA test set is with its
authors, so nothing measured there can be; figures on the public validation studies can, when all of those were read.
"""

from dataclasses import dataclass

HIDDEN = "MURA hidden test set, 207 studies"
PUBLIC = "MURA public validation set, 1,199 studies"
PUBLIC_STUDIES = 1199
UNSTATED = "its abstract does not say whether by image or by study."


@dataclass(frozen=True)
class Published:
    """A figure from the literature.

    metric: a name of `metrics.FIGURES`. level: "image" or "study". on: what it was measured on.
    samples: how many samples that was, where ours can be the same ones; None where they cannot, with the obstacle.
    """

    work: str
    metric: str
    level: str
    value: float
    on: str
    samples: int | None = None
    body_part: str | None = None
    obstacle: str = "those studies are not public."


RAJPURKAR = "MURA baseline, DenseNet-169 (Rajpurkar et al. 2018)"
KALM = "KALM-VGG16"
HE = "Calibrated ensemble (He et al. 2021)"

# Cohen's kappa by part on the hidden set. The hand's is 0.851: the 0.815 in ZHAW's Table II is a misprint.
BASELINE_PARTS = {
    "ELBOW": 0.710,
    "FINGER": 0.389,
    "FOREARM": 0.737,
    "HAND": 0.851,
    "HUMERUS": 0.600,
    "SHOULDER": 0.729,
    "WRIST": 0.931,
}

_MURA = [
    Published(HE, "kappa", "study", 0.74, PUBLIC, obstacle=UNSTATED),
    Published(HE, "auroc", "study", 0.93, PUBLIC, obstacle=UNSTATED),
    Published(HE, "accuracy", "study", 0.87, PUBLIC, obstacle=UNSTATED),
    Published(KALM, "kappa", "study", 0.678, PUBLIC, PUBLIC_STUDIES),
    Published(KALM, "auroc", "study", 0.901, PUBLIC, PUBLIC_STUDIES),
    Published(KALM, "accuracy", "study", 0.842, PUBLIC, PUBLIC_STUDIES),
    Published("Best entry of the MURA leaderboard, an ensemble", "kappa", "study", 0.843, HIDDEN),
    Published("Best radiologist of the MURA study", "kappa", "study", 0.778, HIDDEN),
    Published(RAJPURKAR, "kappa", "study", 0.705, HIDDEN),
    Published(RAJPURKAR, "auroc", "study", 0.929, HIDDEN),
    *(Published(RAJPURKAR, "kappa", "study", value, HIDDEN, body_part=part) for part, value in BASELINE_PARTS.items()),
]

_KNEE_GRADES = [
    Published(
        "Chen et al., five Kellgren–Lawrence grades",
        "accuracy",
        "image",
        0.70,
        "Knees of the Osteoarthritis Initiative; the figure is rounded",
        obstacle="it was measured on another split.",
    )
]

_BY_COHORT = {("mura", "abnormality"): _MURA, ("knee-oa", "kl_grade"): _KNEE_GRADES}


def published_figures(source: str, task: str) -> list[Published]:
    """Published figures for a cohort's source ("mura", "knee-oa") and task; empty where none is known."""
    return list(_BY_COHORT.get((source, task), []))
