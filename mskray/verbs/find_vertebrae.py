"""`mskray find-vertebrae BUNDLE PATH --out corners.json`: vertebral bodies of sagittal volumes, with their names.

What is written is what the sources that cut discs read: for each volume its bodies from below, corners in pixels of the
volume once its slices run right to left, its rows down, its columns backwards (`to_sagittal`).

A volume that the file has already, of the same content and by the same detector, is not searched again: a search that
was interrupted goes on. Notes on a volume, such as that no sacrum was in view, are kept with its bodies.
"""

import hashlib
from dataclasses import dataclass, field, replace

import numpy as np

from mskray.cohorts.corners import Body, Entry, read_search, write_search
from mskray.families.vertebra_finding import Spine, VertebraPredictor, load_vertebra_detector
from mskray.imaging.overlay import png
from mskray.imaging.spine import FoundVertebra
from mskray.imaging.spine_cell import display_levels
from mskray.imaging.spine_overlay import draw_spine
from mskray.imaging.volumes.montage import stack_plane
from mskray.imaging.volumes.volume import Volume, to_sagittal
from mskray.progress import Progress, Report, silent
from mskray.storage import Location, check_access, locate
from mskray.verbs.volume_files import no_volume, reasons, volumes_below

_BETWEEN_WRITES = 20
"""Volumes: what was found so far outlives an interruption."""


@dataclass
class Search:
    """What was found: the spine of each volume by name, and (path, reason) of files and volumes left out.

    entries: what is written of each volume; `kept` of them were there before and not searched again.
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
) -> Search:
    """Find the bodies of one volume or of all below a folder or prefix, and write them as one JSON file.

    The file is also written now and then on the way, and what it holds of this detector's is not searched again unless
    a picture of it is asked for and not there. Volumes that are no sagittal stacks are left out.

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
    report(Progress("loading the detector"))
    described, predictor = load_vertebra_detector(model, "cuda" if gpu else "cpu")
    before = read_search(target, described.hash)
    done = Search()
    for name, volume in volumes_below(place, done.rejected):
        reason = _unfit(volume) if name not in done.spines else "another volume has this name: search its folder alone"
        if reason is not None:
            done.rejected.append((name, reason))
            continue
        content, known = _content(volume), before.get(name)
        if known and known.content == content and (pictures is None or _picture(pictures, name).is_file()):
            bodies = tuple(FoundVertebra(**vars(body.vertebra), score=body.score or 0.0) for body in known.bodies)
            done.spines[name] = Spine(bodies[::-1], (*known.notes, "searched before"))
            done.entries[name] = known
            done.kept += 1
        else:
            done.spines[name] = spine = _search(predictor, name, to_sagittal(volume), pictures)
            done.entries[name] = Entry(tuple(Body.of(body, body.score) for body in spine.bodies), spine.notes, content)
        report(Progress("volumes", len(done.spines)))
        if (len(done.spines) - done.kept) % _BETWEEN_WRITES == 0 and done.kept < len(done.spines):
            # Those of before that this search has not come to yet must not be lost.
            write_search(target, before | done.entries, described.hash)
    if not done.spines:
        raise no_volume(place, done.rejected)
    write_search(target, done.entries, described.hash)
    return done


def _content(volume: Volume) -> str:
    """A hash of what a volume shows, and where."""
    digest = hashlib.sha256(np.ascontiguousarray(volume.pixels).data)
    digest.update(np.ascontiguousarray(volume.affine, np.float64).data)
    return digest.hexdigest()[:32]


def _picture(folder: Location, name: str) -> Location:
    return folder.join(f"{name}.png")


def _unfit(volume: Volume) -> str | None:
    """Why a volume is not searched; None for sagittal slices, several, or voxels that are as long as wide."""
    if min(volume.pixels.shape) < 2:
        return "a volume of one slice: at least 2 are needed"
    plane = stack_plane(volume)
    return None if plane in (None, "sagittal") else f"{plane} slices: bodies are found on sagittal ones"


def _search(predictor: VertebraPredictor, name: str, volume: Volume, pictures: Location | None) -> Spine:
    found = predictor.find_in(volume)
    spine = replace(found, notes=(*volume.notes, *found.notes))
    if pictures is not None:
        middle = np.median([body.slice for body in spine.bodies]) if spine.bodies else (len(volume.pixels) - 1) / 2
        grey = display_levels(volume.pixels[round(float(middle))])
        picture = draw_spine(grey, volume.spacing_mm[1:], spine.bodies, [name, *spine.notes])
        _picture(pictures, name).write_bytes(png(picture))
    return spine


def _line(name: str, spine: Spine) -> str:
    if not spine.bodies:
        return f"{name}  {'; '.join(spine.notes)}"
    levels = " ".join(body.level for body in spine.bodies)
    least = min(body.score for body in spine.bodies)
    return "  ".join(
        [name, levels, f"least score {least:.2f}", *([f"({'; '.join(spine.notes)})"] if spine.notes else [])]
    )
