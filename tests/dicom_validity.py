"""dciodvfy, which judges DICOM objects by the standard, for every test that makes some."""

import re
import subprocess
from pathlib import Path

from pydicom import Dataset

from mskray.dicom import file_bytes

#: What dciodvfy calls an error and is none, by exact text, with the reason. Nothing else is forgiven.
KNOWN_DEFECTS: dict[str, str] = {}


def errors_of(dataset: Dataset, folder: Path) -> list[str]:
    """What dciodvfy finds wrong with an object: its lines that begin with Error."""
    file = folder / "judged.dcm"
    file.write_bytes(file_bytes(dataset))
    ran = subprocess.run(["dciodvfy", "-new", file], capture_output=True, text=True, timeout=60, check=False)
    said = ran.stderr + ran.stdout
    assert re.search(r"^(ComprehensiveSR|SCImage|Segmentation|ParametricMap)$", said, re.MULTILINE), said
    return [line for line in said.splitlines() if line.startswith("Error") and line not in KNOWN_DEFECTS]
