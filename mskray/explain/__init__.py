"""Where a network looks: arrays in, arrays out. Nothing of Ray, cohorts or families."""

from mskray.explain.guided import evaluating, guided_backprop, look, normalise

__all__ = ["evaluating", "guided_backprop", "look", "normalise"]
