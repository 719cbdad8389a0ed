"""Synthetic radiographs with known truth: they need no download, and localisation can be measured on them.

    spec = PhantomSpec(patients=100, seed=1)
    for planned in studies(spec):
        for view_index in range(len(planned.views)):
            image = render(spec, planned.index, view_index)

See them: `.venv/bin/python tests/benchmarks/phantom_difficulty.py --sheet sheet.png`.
"""

from mskray.imaging.phantoms.dataset import write_dataset
from mskray.imaging.phantoms.plan import BODY_PARTS, KINDS, PhantomSpec, PhantomStudy, studies, study, study_count
from mskray.imaging.phantoms.radiograph import Finding, PhantomImage, render

__all__ = [
    "BODY_PARTS",
    "KINDS",
    "Finding",
    "PhantomImage",
    "PhantomSpec",
    "PhantomStudy",
    "render",
    "studies",
    "study",
    "study_count",
    "write_dataset",
]
