"""Simulated predictions whose true figures are known."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest


def simulate(
    patients: int = 60,
    views: int = 3,
    classes: tuple[str, ...] = ("normal", "abnormal"),
    parts: tuple[str, ...] = ("ELBOW", "WRIST"),
    shared: float = 0.5,
    seed: int = 0,
) -> pd.DataFrame:
    """A predictions table: each patient has one study of `views` images whose errors share a part of their noise.

    shared: standard deviation of the noise common to a patient's images; that of each image alone is 0.7.
    """
    rng = np.random.default_rng(seed)
    count = len(classes)
    rows = []
    for patient in range(patients):
        label = int(rng.integers(count))
        common = rng.normal(0, shared, count)
        for view in range(views):
            logit = common + rng.normal(0, 0.7, count) + 1.2 * (np.arange(count) == label)
            prob = np.exp(logit) / np.exp(logit).sum()
            rows.append(
                {
                    "instance_id": f"i{patient:04d}-{view}",
                    "study_id": f"s{patient:04d}",
                    "patient_id": f"p{patient:04d}",
                    "body_part": parts[patient % len(parts)],
                    "view_index": view,
                    "label": label,
                    **{f"prob_{name}": np.float32(value) for name, value in zip(classes, prob, strict=True)},
                    "error": None,
                }
            )
    return pd.DataFrame(rows).astype({"label": "Int32", "view_index": "int32"})


@pytest.fixture
def predictions() -> Callable[..., pd.DataFrame]:
    """`simulate`, for tests."""
    return simulate
