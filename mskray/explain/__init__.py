"""Where a network looks: arrays in, arrays out. Nothing of Ray, cohorts or families."""

from mskray.explain.guided import guided_backprop, look, normalise

__all__ = ["guided_backprop", "look", "normalise"]
