"""Model families: each file registers one, and the rest of mskray knows them only through `Family`.

    mskray families              lists them
    mskray families classifier   prints its config

A new family is one new file in this folder with a `@register` class; nothing else is edited.
"""

from mskray.families.base import (
    Family,
    Images,
    Prediction,
    Predictor,
    families,
    family,
    register,
)
from mskray.families.explanation import Explainer, Explanation, StackExplainer
from mskray.families.loading import load_predictor

__all__ = [
    "Explainer",
    "Explanation",
    "Family",
    "Images",
    "Prediction",
    "Predictor",
    "StackExplainer",
    "families",
    "family",
    "load_predictor",
    "register",
]
