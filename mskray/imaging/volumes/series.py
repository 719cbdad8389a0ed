"""Files of DICOM series → volumes: echoes, time points and localisers apart, slices by their position in the patient.

    found = read_series([(name, data), …])
    found.volumes, found.files, found.rejected

Neither file names nor instance numbers order slices: positions along their common normal do. A file that belongs to no
volume is rejected with its reason, and the rest is read without it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mskray.imaging.decoded import NO_LIMIT, DecodeError, DecodeLimits
from mskray.imaging.volumes.slices import Contrast, Slice, read_slices
from mskray.imaging.volumes.stack import stack
from mskray.imaging.volumes.volume import Volume

_SAME_COSINE = 0.01
_SAME_SPACING = 1e-3
#: Slices of another orientation are scouts in a series if they are no more than these: a number, and a share.
_SCOUTS, _SCOUTS_SHARE = 3, 0.25

Rejected = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Series:
    """What files of one or more DICOM series hold.

    Args:
        volumes: in the order in which their series came; echoes and time points of a series in theirs.
        files: for each volume the name that each of its slices came from; None for a slice that is missing.
        rejected: (name, reason) of each file that is in no volume.
    """

    volumes: tuple[Volume, ...]
    files: tuple[tuple[str | None, ...], ...]
    rejected: Rejected

    def only(self) -> Volume:
        """The volume, where there is one.

        Raises:
            DecodeError: there is none (with the commonest reason), or there are several.
        """
        return only_volume(self.volumes, self.rejected)


def only_volume(volumes: Sequence[Volume], rejected: Rejected) -> Volume:
    """Return the volume, where there is one. Raises DecodeError as `Series.only`."""
    if len(volumes) == 1:
        return volumes[0]
    if volumes:
        raise DecodeError(f"{len(volumes)} volumes where one is expected: give each a folder of its own")
    reasons = [reason for _, reason in rejected]
    raise DecodeError(max(reasons, key=reasons.count) if reasons else "no files")


def read_series(
    files: Iterable[tuple[str, bytes]], limits: DecodeLimits = DecodeLimits(), together: int = NO_LIMIT
) -> Series:
    """Read DICOM files, of any number of series and in any order, into volumes.

    files: (name, bytes). limits: for each file, and for each volume as a whole. together: most voxels of all volumes.
    """
    slices: list[Slice] = []
    rejected: list[tuple[str, str]] = []
    for name, data in files:
        try:
            slices += read_slices(name, data, limits)
        except DecodeError as error:
            rejected.append((name, error.reason))
    volumes: list[Volume] = []
    names: list[tuple[str | None, ...]] = []
    for series in _grouped(slices):
        for contrast in sorted({each.contrast for each in series}):
            chosen = [each for each in series if each.contrast == contrast]
            try:
                kept = _of_one_geometry(chosen, rejected)
                volume, sources = stack(kept, _told_apart(contrast, series), limits.within(together), rejected)
            except DecodeError as error:
                known = {name for name, _ in rejected}
                rejected += [(each.name, error.reason) for each in chosen if each.name not in known]
            else:
                together -= volume.pixels.size
                volumes.append(volume)
                names.append(sources)
    return Series(tuple(volumes), tuple(names), tuple(rejected))


def _grouped(slices: Sequence[Slice]) -> list[list[Slice]]:
    """Slices by series, in the order of first appearance."""
    groups: dict[str, list[Slice]] = {}
    for each in slices:
        groups.setdefault(each.series, []).append(each)
    return list(groups.values())


def _told_apart(contrast: Contrast, series: Sequence[Slice]) -> list[str]:
    """Notes that say which of its series' echoes, time points, image types and stacks a volume is."""
    notes = []
    for index, word in enumerate(("echo", "temporal position", "image type", "stack")):
        values = sorted({each.contrast[index] for each in series})
        if len(values) > 1:
            note = f"{word} {values.index(contrast[index]) + 1} of {len(values)}"
            # Numbers alone: what else a header says here may be free text.
            notes.append(f"{note} (TE {contrast.echo[1]:g} ms)" if word == "echo" else note)
    return notes


def _of_one_geometry(slices: list[Slice], rejected: list[tuple[str, str]]) -> list[Slice]:
    """The slices that form one stack, a few scouts rejected.

    Raises:
        DecodeError: rows, columns, spacing or orientation differ, and it is not a scout or two among many.
    """
    kinds: list[list[Slice]] = []
    for each in slices:
        place = next((kind for kind in kinds if not _differences(kind[0], each)), None)
        if place is None:
            kinds.append([each])
        else:
            place.append(each)
    most = max(kinds, key=len)
    others = [each for kind in kinds if kind is not most for each in kind]
    turned = all("orientation" in _differences(most[0], each) for each in others)
    if turned and len(others) <= min(_SCOUTS, _SCOUTS_SHARE * len(most)):
        rejected += [(each.name, "a scout: its orientation differs from its series'") for each in others]
        return most
    what = sorted({word for each in others for word in _differences(most[0], each)}, reverse=True)
    verb = "differs" if len(what) == 1 and not what[0].startswith("rows") else "differ"
    raise DecodeError(f"mixed geometry: {', '.join(what)} {verb} within the series")


def _differences(first: Slice, second: Slice) -> set[str]:
    """In which respects two slices cannot lie in one stack."""
    words = set()
    if first.picture.shape.rows != second.picture.shape.rows or (
        first.picture.shape.columns != second.picture.shape.columns
    ):
        words.add("rows × columns")
    pairs = zip(first.spacing_mm, second.spacing_mm, strict=True)
    if any(abs(one - other) > _SAME_SPACING * max(one, other) for one, other in pairs):
        words.add("pixel spacing")
    if abs(first.axes - second.axes).max() > _SAME_COSINE:
        words.add("orientation")
    return words
