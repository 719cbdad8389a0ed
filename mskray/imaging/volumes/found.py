"""What files hold of volumes, whatever their kind: each is recognised by its content, never by its name.

found = read_volumes([(path, data), …])
for name, volume in zip(found.names, found.volumes): …
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from mskray.imaging.decoded import NO_LIMIT, DecodeError, DecodeLimits
from mskray.imaging.dicom import is_dicom
from mskray.imaging.volumes.metaimage import is_metaimage, read_metaimage
from mskray.imaging.volumes.nifti import is_nifti, read_nifti
from mskray.imaging.volumes.series import Rejected, only_volume, read_series
from mskray.imaging.volumes.volume import Volume


@dataclass(frozen=True)
class Found:
    """Volumes among files.

    Args:
        names: one a volume, all different: the path of a NIfTI or MetaImage file; of a DICOM series the folder of its
            first file, with "#2" and so on where a folder holds several.
        volumes: NIfTI and MetaImage files in their order, then DICOM series.
        rejected: (path, reason) of what is in no volume.
    """

    names: tuple[str, ...]
    volumes: tuple[Volume, ...]
    rejected: Rejected

    def only(self) -> Volume:
        """The volume, where there is one. Raises DecodeError as `Series.only`."""
        return only_volume(self.volumes, self.rejected)

    def numbered(self, number: int) -> Volume:
        """The volume that is called folder#number. Raises DecodeError where none is."""
        for name, volume in zip(self.names, self.volumes, strict=True):
            if name.endswith(f"#{number}"):
                return volume
        count = len(self.volumes)
        raise DecodeError(f"no volume {number} of a folder of {count}: `mskray montage` says how each is called")


def read_volumes(
    files: Iterable[tuple[str, bytes]], limits: DecodeLimits = DecodeLimits(), together: int = NO_LIMIT
) -> Found:
    """Read files of DICOM series, NIfTI and MetaImage; what is none of these is rejected with its reason.

    files: (path with "/", bytes). limits: for each file and each volume. together: most voxels of all volumes.
    """
    names: list[str] = []
    volumes: list[Volume] = []
    rejected: list[tuple[str, str]] = []
    dicom: list[tuple[str, bytes]] = []
    for path, data in files:
        if is_dicom(data):
            dicom.append((path, data))
            continue
        try:
            volume = _read_one(data, limits.within(together))
        except DecodeError as error:
            rejected.append((path, error.reason))
        else:
            together -= volume.pixels.size
            names.append(path)
            volumes.append(volume)
    series = read_series(dicom, limits, together)
    return Found((*names, *_folders(series.files)), (*volumes, *series.volumes), (*rejected, *series.rejected))


def _read_one(data: bytes, limits: DecodeLimits) -> Volume:
    if is_nifti(data):
        return read_nifti(data, limits)
    if is_metaimage(data):
        return read_metaimage(data, limits)
    raise DecodeError("not DICOM, NIfTI or MetaImage" if data else "an empty file")


def _folders(files: Iterable[tuple[str | None, ...]]) -> list[str]:
    """A name for each DICOM volume, from the paths of its slices."""
    folders = [next(path for path in slices if path).rpartition("/")[0] or "." for slices in files]
    counts, seen = Counter(folders), Counter[str]()
    names = []
    for folder in folders:
        seen[folder] += 1
        names.append(folder if counts[folder] == 1 else f"{folder}#{seen[folder]}")
    return names
