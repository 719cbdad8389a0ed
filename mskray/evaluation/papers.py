"""The tables of the radiograph papers, row by row, and which preset of ours stands for each row.

    mskray report --against papers --results URI

A preset is the name of a file in jobs/configs. A row without one names a network that its paper does not describe well
enough to be built again. Whose split a figure was measured on stands with its table: those of MURA's hidden test set
cannot be measured by anybody else, and are not comparable with those of its public validation set.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from mskray.evaluation.published import BASELINE_PARTS, HIDDEN, PUBLIC


@dataclass(frozen=True)
class Row:
    """One row of a paper's table.

    Args:
        name: as the paper prints it.
        figures: metric (a name of `metrics.FIGURES`) → the paper's value.
        presets: the configs that make it; several are joined in a soft-voting ensemble.
        part: which of the model's own answers it is ("global"); empty for the model's answer.
        body_part: where the row is about one only.
        on: the split that the row was measured on, where it is not the table's.
    """

    name: str
    figures: Mapping[str, float]
    presets: tuple[str, ...] = ()
    part: str = ""
    body_part: str = ""
    on: str = ""

    @property
    def model(self) -> str:
        """Name of the folder that holds the row's bundle or ensemble among the results."""
        return "+".join(self.presets)


@dataclass(frozen=True)
class Table:
    """One table of a paper.

    Args:
        name: what the command line calls it.
        on: the split that the paper measured on.
        level: "image" or "study".
        note: what a reader must know before comparing.
    """

    name: str
    title: str
    on: str
    level: Literal["image", "study"]
    rows: tuple[Row, ...]
    note: str = ""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Every metric of the rows, in the order of their first appearance."""
        return tuple(dict.fromkeys(metric for row in self.rows for metric in row.figures))


def _three(accuracy: float | None, auroc: float | None, kappa: float | None) -> dict[str, float]:
    values = {"accuracy": accuracy, "auroc": auroc, "kappa": kappa}
    return {name: value for name, value in values.items() if value is not None}


def _kalm(name: str, preset: str, scores: Mapping[str, tuple[float, float, float]]) -> tuple[Row, ...]:
    return tuple(
        Row(f"{name} {label}", _three(*values), (preset,), part)
        for (label, values), part in zip(scores.items(), ("global", "local", ""), strict=True)
    )


KALM_1 = Table(
    "kalm-1",
    "KALM, Table 1: global, local and fused score of three networks",
    PUBLIC,
    "study",
    (
        *_kalm(
            "ResNet18",
            "mura-kalm-resnet18",
            {"g": (0.821, 0.875, 0.633), "l": (0.811, 0.870, 0.609), "KALM": (0.832, 0.888, 0.653)},
        ),
        *_kalm(
            "InceptionV4",
            "mura-kalm-inception-v4",
            {"g": (0.800, 0.865, 0.584), "l": (0.813, 0.873, 0.616), "KALM": (0.814, 0.881, 0.617)},
        ),
        *_kalm(
            "VGG16",
            "mura-kalm-vgg16",
            {"g": (0.838, 0.892, 0.668), "l": (0.827, 0.895, 0.649), "KALM": (0.842, 0.901, 0.678)},
        ),
    ),
    "The models are chosen on image-level accuracy; the paper does not say on which split.",
)

_NOT_STATED = "a split that KALM does not state"

KALM_2 = Table(
    "kalm-2",
    "KALM, Table 2: comparison with other literature",
    PUBLIC,
    "study",
    (
        Row("MobileNet (Banga and Waiganjo)", _three(0.773, 0.67, 0.34), ("mura-mobilenet-v2",), on=_NOT_STATED),
        Row(
            "Ensemble200 (Banga and Waiganjo)",
            _three(0.797, 0.82, 0.66),
            ("mura-densenet169", "mura-mobilenet-v2", "mura-inception-v3"),
            on=_NOT_STATED,
        ),
        Row("DNN (Kaliyugarasan)", _three(0.827, None, None), on=_NOT_STATED),
        Row(
            "Dense-169 (Oakden-Rayner et al.)",
            _three(None, 0.91, None),
            ("mura-densenet169",),
            on="a split of its own, after training on 13,942 studies",
        ),
        Row("VGG16 KALM", _three(0.842, 0.901, 0.678), ("mura-kalm-vgg16",)),
    ),
    "Rows of other literature, as KALM quotes them. Ensemble200's members are not given there: ours is one of the same "
    "kind, a DenseNet, a MobileNet and an Inception network.",
)

ZHAW_1 = Table(
    "zhaw-1",
    "ZHAW, Table I: official MURA performance",
    HIDDEN,
    "study",
    (
        Row("VGG19", {"kappa": 0.744}, ("mura-vgg19",)),
        Row("VGG19 + Intensity Rescaling", {"kappa": 0.754}, ("mura-vgg19-rescaled",)),
    ),
)

# (accuracy, κ) of the SVMs on the public validation images of each part.
_SVM = {
    "ELBOW": (0.858, 0.716),
    "FINGER": (0.789, 0.582),
    "FOREARM": (0.806, 0.601),
    "HAND": (0.791, 0.550),
    "HUMERUS": (0.864, 0.729),
    "SHOULDER": (0.785, 0.569),
    "WRIST": (0.861, 0.717),
}

ZHAW_2 = Table(
    "zhaw-2",
    "ZHAW, Table II: bagged SVMs on ResNet-152 features, a model for each body part",
    PUBLIC,
    "image",
    tuple(
        Row(
            f"{part.capitalize()} (MURA baseline κ {BASELINE_PARTS[part]:.3f})",
            {"accuracy": accuracy, "kappa": kappa},
            ("mura-feature-svm",),
            body_part=part,
        )
        for part, (accuracy, kappa) in _SVM.items()
    ),
    f"The MURA baseline was measured on another split: {HIDDEN}. The paper prints 0.815 for the hand, a misprint.",
)

DECK_BENCHMARK = Table(
    "deck-benchmark",
    "ResNet18 deck, slide 03: comparison of architectures",
    "11 images",
    "image",
    tuple(
        Row(name, {"accuracy": accuracy, "f1": f1}, (preset,))
        for name, accuracy, f1, preset in (
            ("ResNet18", 0.91, 0.91, "mura-resnet18"),
            ("DenseNet121", 0.91, 0.91, "mura-densenet121"),
            ("VGG16", 0.82, 0.82, "mura-vgg16"),
            ("EfficientNet", 0.73, 0.71, "mura-efficientnet-b0"),
            ("MobileNet", 0.36, 0.24, "mura-mobilenet-v2"),
        )
    ),
    "Eleven images tell next to nothing: 91 % is ten of them.",
)

DECK_VERSIONS = Table(
    "deck-versions",
    "ResNet18 deck, slide 04: from the baseline to the final model",
    "MURA public validation set, on which the deck also chose its models",
    "image",
    tuple(
        Row(name, {"accuracy": accuracy, "f1": f1}, (preset,))
        for name, accuracy, f1, preset in (
            ("Baseline", 0.78, 0.78, "mura-resnet18-baseline"),
            ("U5", 0.63, 0.59, "mura-resnet18-u5"),
            ("U6", 0.77, 0.77, "mura-resnet18-u6"),
            ("U7", 0.79, 0.79, "mura-resnet18-u7"),
            ("U8", 0.80, 0.80, "mura-resnet18-u8"),
            ("U9", 0.80, 0.80, "mura-resnet18-recipe"),
        )
    ),
    "The deck does not say whether its F1 is that of the abnormal class; ours is.",
)

TABLES = {table.name: table for table in (KALM_1, KALM_2, ZHAW_1, ZHAW_2, DECK_BENCHMARK, DECK_VERSIONS)}

SOURCES: Mapping[str, Mapping[str, str]] = {"mura-feature-svm": {"network.bundle": "mura-resnet152"}}
"""Presets that learn from another preset's bundle: config key → the other preset."""
