"""Writes a phantom cohort to disk in the layout of MURA-v1.1, for everything that reads that layout.

MURA-v1.1/{train,valid}/XR_PART/patientNNNNN/studyK_{positive,negative}/imageN.png
MURA-v1.1/{train,valid}_image_paths.csv        path
MURA-v1.1/{train,valid}_labeled_studies.csv    path/,0|1
"""

from pathlib import Path

import cv2

from mskray.errors import UserError
from mskray.imaging.phantoms.plan import PhantomSpec, studies
from mskray.imaging.phantoms.radiograph import render

ROOT = "MURA-v1.1"
_VALID_EVERY = 5  # every fifth patient goes to valid


def write_dataset(spec: PhantomSpec, folder: str | Path) -> Path:
    """Writes all images and the four lists below `folder`, and returns the path of its `MURA-v1.1`.

    No patient is in both splits. UserError when `folder` already holds a `MURA-v1.1`.
    """
    root = Path(folder) / ROOT
    if root.exists():
        raise UserError(f"{root} exists: give another folder, or remove it first")
    images: dict[str, list[str]] = {"train": [], "valid": []}
    labels: dict[str, list[str]] = {"train": [], "valid": []}
    for study in studies(spec):
        split = "valid" if study.patient % _VALID_EVERY == _VALID_EVERY - 1 else "train"
        kind = "positive" if study.label else "negative"
        path = f"{split}/XR_{study.body_part}/{study.patient_id}/study{study.number}_{kind}"
        (root / path).mkdir(parents=True)
        labels[split].append(f"{ROOT}/{path}/,{study.label}")
        for view_index in range(len(study.views)):
            name = f"{path}/image{view_index + 1}.png"
            _, png = cv2.imencode(".png", render(spec, study.index, view_index).pixels)
            (root / name).write_bytes(png.tobytes())
            images[split].append(f"{ROOT}/{name}")
    for split in images:
        _write_lines(root / f"{split}_image_paths.csv", images[split])
        _write_lines(root / f"{split}_labeled_studies.csv", labels[split])
    return root


def _write_lines(path: Path, lines: list[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
