"""What `bench_serve.py` asks about: files, the ensemble, and what it says of each file."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from serving_setup import encoded, make_ensemble, picture

OURS, PEER = "mskray serve", "LitServe"
# Name → kind of file, rows, columns, how many there are.
FILES = {
    "PNG of 0.1 MB": ("png", 480, 400, 16),
    "PNG of 1 MB": ("png", 1440, 1300, 8),
    "DICOM of 5 MB": ("dcm", 1650, 1520, 4),
    "DICOM of 20 MB": ("dcm", 3300, 3030, 2),
}
SAME = 1e-4


def prepare(folder: str) -> str:
    """Write the files, the ensemble and what it says of each file, alone in its batch; return the ensemble."""
    from serving_litserve import as_trained
    from serving_samples import dicom

    from mskray.ensemble import load
    from mskray.families import Images
    from mskray.imaging.decode import decode

    place = Path(folder)
    uri = make_ensemble(place)
    voters: dict[str, Any] = {OURS: load(uri), PEER: as_trained(uri)}
    known: dict[str, dict[str, list[float]]] = {name: {} for name in voters}
    for name, (kind, rows, columns, count) in FILES.items():
        (place / name).mkdir()
        for seed in range(count):
            if kind == "png":
                content = encoded(picture(seed, rows, columns), "PNG")
            else:
                content = dicom(picture(seed, rows, columns, np.uint16))
            (place / name / f"{seed:03d}.{kind}").write_bytes(content)
            image = Images([decode(content).pixels])
            for subject, voter in voters.items():
                known[subject][f"{name}/{seed}"] = voter(image).probabilities[0].tolist()
    for key, said in known[OURS].items():
        np.testing.assert_allclose(said, known[PEER][key], rtol=0, atol=SAME)
    (place / "known.json").write_text(json.dumps(known))
    return uri
