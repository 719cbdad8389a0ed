"""`mskray find-vertebrae BUNDLE PATH --out corners.json`: vertebral bodies of sagittal volumes, with their names.

What is written is what the sources that cut discs read: for each volume its bodies from below, corners in pixels of the
volume once its slices run right to left, its rows down, its columns backwards (`to_sagittal`).
"""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mskray.cohorts.corners import Body, write_corners
from mskray.errors import UserError
from mskray.families.vertebra_finding import Spine, VertebraPredictor, load_vertebra_detector
from mskray.imaging.overlay import png
from mskray.imaging.spine_overlay import draw_spine
from mskray.imaging.volumes.volume import Volume, to_sagittal
from mskray.progress import Progress, Report, silent
from mskray.storage import Location, check_access, locate
from mskray.verbs.volume_files import volumes_below


@dataclass
class Searched:
    """What was found: the spine of each volume by name, and (path, reason) of what is in no volume."""

    spines: dict[str, Spine] = field(default_factory=dict)
    rejected: list[tuple[str, str]] = field(default_factory=list)

    def lines(self) -> str:
        """One line a volume, and one for each reason for which files were left out."""
        lines = [_line(name, spine) for name, spine in self.spines.items()]
        counts = Counter(reason for _, reason in self.rejected)
        example = {reason: path for path, reason in reversed(self.rejected)}
        lines += [
            f"not read: {count:,} × {reason}, such as {example[reason]}" for reason, count in counts.most_common()
        ]
        return "\n".join(lines)


def find_vertebrae(
    bundle: str, source: str, out: str, overlay: str | None = None, *, gpu: bool = False, report: Report = silent
) -> Searched:
    """Find the bodies of one volume or of all below a folder or prefix, and write them as one JSON file.

    Args:
        bundle: URI of a `vertebra_detector`.
        source: a NIfTI or MetaImage file, a DICOM file, or a folder or prefix with files of any of these.
        overlay: folder of a picture for each volume; none are drawn without it.
    Raises:
        UserError: before any work, when bundle, source or a target does not do; at the end, when no volume was read.
    """
    model, place, target = locate(bundle), locate(source), locate(out)
    pictures = None if overlay is None else locate(overlay)
    check_access(model)
    check_access(place)
    for where in filter(None, (target, pictures)):
        check_access(where, write=True)
    report(Progress("loading the detector"))
    _, predictor = load_vertebra_detector(model, "cuda" if gpu else "cpu")
    done = Searched()
    for found in volumes_below(place):
        done.rejected += found.rejected
        for name, volume in zip(found.names, found.volumes, strict=True):
            done.spines[name] = _search(predictor, name, to_sagittal(volume), pictures)
            report(Progress("volumes", len(done.spines)))
    if not done.spines:
        reasons = "; ".join(f"{path}: {reason}" for path, reason in done.rejected[:3]) or "no files"
        raise UserError(f"{place} holds no volume ({reasons}): give DICOM series, NIfTI or MetaImage (.mha)")
    write_corners(
        target, {name: [Body.of(body, body.score) for body in spine.bodies] for name, spine in done.spines.items()}
    )
    return done


def _search(predictor: VertebraPredictor, name: str, volume: Volume, pictures: Location | None) -> Spine:
    spine = predictor.find_in(volume)
    if pictures is not None:
        middle = np.median([body.slice for body in spine.bodies]) if spine.bodies else (len(volume.pixels) - 1) / 2
        grey = _display(volume.pixels[round(float(middle))])
        picture = draw_spine(grey, volume.spacing_mm[1:], spine.bodies, [name, *spine.notes])
        pictures.join(f"{name}.png").write_bytes(png(picture))
    return spine


def _display(pixels: np.ndarray) -> NDArray[np.uint8]:
    low, high = np.percentile(pixels, (0.5, 99.5))
    return np.clip((pixels - low) * (255 / max(high - low, 1e-9)), 0, 255).astype(np.uint8)


def _line(name: str, spine: Spine) -> str:
    if not spine.bodies:
        return f"{name}  {'; '.join(spine.notes)}"
    levels = " ".join(body.level for body in spine.bodies)
    least = min(body.score for body in spine.bodies)
    return "  ".join(
        [name, levels, f"least score {least:.2f}", *([f"({'; '.join(spine.notes)})"] if spine.notes else [])]
    )
