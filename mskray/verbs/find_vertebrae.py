"""`mskray find-vertebrae BUNDLE PATH --out corners.json`: vertebral bodies of sagittal volumes, with their names.

What is written is what the sources that cut discs read: for each volume its bodies from below, corners in pixels of the
volume once its slices run right to left, its rows down, its columns backwards (`to_sagittal`).

A volume that the file has already, of the same content and by the same detector, is not searched again: a search that
was interrupted goes on. Notes on a volume, such as that no sacrum was in view, are kept with its bodies. A volume of
which a person drew a body (one without a score) stays as it is, whatever is searched; a file that is no corners.json is
not written over.
"""

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from mskray.cohorts.corners import Body, Entry, read_search, write_search
from mskray.families.vertebra_finding import Spine, VertebraPredictor, load_vertebra_detector
from mskray.imaging.overlay import png
from mskray.imaging.spine_cell import display_levels
from mskray.imaging.spine_overlay import draw_spine
from mskray.imaging.volumes.volume import Volume, to_sagittal
from mskray.progress import Progress, Report, silent
from mskray.storage import check_access, locate
from mskray.verbs.volume_files import content_hash, no_volume, reasons, spines_below

_BETWEEN_WRITES = 20
"""Volumes: what was found so far outlives an interruption."""


@dataclass
class Found:
    """What was found: the spine of each volume by name, and (path, reason) of files and volumes left out.

    entries: what is written of each volume; `kept` of them were there before and not searched.
    """

    spines: dict[str, Spine] = field(default_factory=dict)
    rejected: list[tuple[str, str]] = field(default_factory=list)
    entries: dict[str, Entry] = field(default_factory=dict)
    kept: int = 0

    def lines(self) -> str:
        """One line a volume, and one for each reason for which files or volumes were left out."""
        lines = [_line(name, spine) for name, spine in self.spines.items()]
        return "\n".join([*lines, *(f"left out: {reason}" for reason in reasons(self.rejected))])


def find_vertebrae(
    bundle: str, source: str, out: str, overlay: str | None = None, *, gpu: bool = False, report: Report = silent
) -> Found:
    """Find the bodies of one volume or of all below a folder or prefix, and write them as one JSON file.

    The file is also written now and then on the way, and what it holds of this detector's or of a person is not
    searched again. Volumes that are no sagittal stacks are left out.

    Args:
        bundle: URI of a `vertebra_detector`.
        source: a NIfTI or MetaImage file, a DICOM file, or a folder or prefix with files of any of these.
        overlay: folder of a picture for each volume; none are drawn without it.
    Raises:
        UserError: before any work, when bundle, source or a target does not do; at the end, when there was
            no volume to search.
    """
    model, place, target = locate(bundle), locate(source), locate(out)
    pictures = None if overlay is None else locate(overlay)
    check_access(model)
    check_access(place)
    for where in filter(None, (target, pictures)):
        check_access(where, write=True)
    there = read_search(target)
    report(Progress("loading the detector"))
    described, predictor = load_vertebra_detector(model, "cuda" if gpu else "cpu")
    before = there.known_to(described.hash)
    done = Found()

    def store() -> None:
        """Write what was found, and of before what this search has not come to yet."""
        if done.kept < len(done.spines):
            write_search(target, before | done.entries, described.hash)

    try:
        for name, volume in spines_below(place, done.rejected):
            seen = to_sagittal(volume)
            spine = _look(predictor, name, volume, seen, before.get(name), done)
            if pictures is not None:
                picture = draw_spine(*_middle(seen, spine), spine.bodies, [name, *spine.notes])
                pictures.join(f"{name}.png").write_bytes(png(picture))
            report(Progress("searched", len(done.spines), unit="volumes"))
            if (len(done.spines) - done.kept) % _BETWEEN_WRITES == 0:
                store()
    except BaseException:  # Ctrl-C is one
        store()
        raise
    if not done.spines:
        raise no_volume(place, done.rejected)
    drawn = {name: entry for name, entry in before.items() if entry.drawn}
    write_search(target, drawn | done.entries, described.hash)
    return done


def _look(
    predictor: VertebraPredictor, name: str, volume: Volume, seen: Volume, known: Entry | None, done: Found
) -> Spine:
    """Find the bodies of a volume, or take those that are known, and put them into `done`."""
    content = content_hash(volume)
    if known and (known.drawn or known.content == content):
        if known.all_drawn:
            known = replace(known, notes=volume.notes)
        how = "drawn by hand: not searched" if known.drawn else "searched before"
        spine = Spine(tuple(body.vertebra for body in known.bodies)[::-1], (*known.notes, how))
        done.entries[name] = known
        done.kept += 1
    else:
        found = predictor.find_in(seen)
        spine = replace(found, notes=(*volume.notes, *found.notes))
        done.entries[name] = Entry(tuple(Body.of(body, body.score) for body in spine.bodies), spine.notes, content)
    done.spines[name] = spine
    return spine


def _middle(volume: Volume, spine: Spine) -> tuple[NDArray[np.uint8], tuple[float, float]]:
    """The slice that shows the spine best, and its pixel spacing."""
    last = len(volume.pixels) - 1
    middle = float(np.median([body.slice for body in spine.bodies])) if spine.bodies else last / 2
    return display_levels(volume.pixels[min(max(round(middle), 0), last)]), volume.spacing_mm[1:]


def _line(name: str, spine: Spine) -> str:
    if not spine.bodies:
        return f"{name}  {'; '.join(spine.notes)}"
    levels = " ".join(body.level for body in spine.bodies)
    scores = [body.score for body in spine.bodies if body.score is not None]
    least = [f"least score {min(scores):.2f}"] if scores else []
    return "  ".join([name, levels, *least, *([f"({'; '.join(spine.notes)})"] if spine.notes else [])])
