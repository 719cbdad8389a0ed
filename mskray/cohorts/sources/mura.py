"""MURA-v1.1 (Rajpurkar et al. 2017, arXiv 1712.06957): upper-extremity studies labelled normal or abnormal.

    mskray ingest mura MURA-v1.1 --out URI

Layout: `{train,valid}/XR_<PART>/patient<N>/study<K>_{positive,negative}/image<I>.png`, with
`{train,valid}_image_paths.csv` (path, or path and label) and `{train,valid}_labeled_studies.csv` (study folder,
0 or 1), each with or without a header line; without them the folders alone are read. IN is `MURA-v1.1` itself or the
folder that holds it. Where a path list is there, a listed image without a file and a file that is not listed go to
quarantine; so does a study whose folder name and listed label disagree.

Splits: the hidden test set of the MURA competition was never published, so `valid`, the public held-out set that
papers report on, is kept as `test`. `validation` is cut from `train` by patient (some have several body parts),
stratified by label and part; `validation_fraction` says how much. `--split-fractions` cuts everything anew.
"""

import csv
import io
import re
from collections.abc import Iterator

from mskray.cohorts.schema import ABNORMALITY, Fractions, Task
from mskray.cohorts.sources import Item, Rejected, Source, child_folders, fingerprint, register
from mskray.config import Section, setting
from mskray.errors import UserError
from mskray.storage import Location

_FOLDERS = ("train", "valid")
_IMAGE = re.compile(
    r"(train|valid)/XR_(?P<part>[A-Z]+)/(?P<patient>patient\d+)/(?P<study>study\d+_(?P<label>positive|negative))"
    r"/image(?P<number>\d+)\.(png|jpe?g)"
)
_LISTED = re.compile(r"(?:.*/)?(?P<path>(?:train|valid)/XR_[^/]+/.+?)/?")
_LABELS = {"negative": 0, "positive": 1}
_MOST_CSV_BYTES = 256 * 2**20


class MuraOptions(Section):
    validation_fraction: float = setting(
        0.1, "share of the training patients that becomes the validation split", ge=0, le=0.9
    )


@register
class Mura(Source[MuraOptions]):
    name = "mura"
    summary = "MURA-v1.1: {train,valid}/XR_PART/patientN/studyK_{positive,negative}/imageI.png and its CSV lists"
    Options = MuraOptions
    split_note = "test is MURA's public validation set `valid`; validation is cut from `train` by patient"

    def root(self, location: Location, options: MuraOptions) -> Location:
        for root in (location, location.join("MURA-v1.1")):
            if any(_parts(root, folder) for folder in _FOLDERS):
                return root
        raise UserError(
            f"{location} is not laid out like MURA: expected train/ or valid/ with folders such as XR_WRIST in it "
            "(give the folder MURA-v1.1 or its parent)"
        )

    def tasks(self, location: Location | None, options: MuraOptions) -> tuple[Task, ...]:
        return (ABNORMALITY,)

    def fractions(self, options: MuraOptions) -> Fractions:
        return (1 - options.validation_fraction, options.validation_fraction, 0.0)

    def items(self, location: Location | None, options: MuraOptions) -> Iterator[Item | Rejected]:
        assert location is not None
        root = self.root(location, options)
        for folder in child_folders(root, _FOLDERS):
            yield from _split_items(root, folder)


def _parts(root: Location, folder: str) -> bool:
    """Whether `root/folder` holds XR_ folders; stops at the first file."""
    place = root.join(folder)
    return place.is_dir() and any(entry.path.startswith("XR_") for entry in place.walk())


def _split_items(root: Location, folder: str) -> Iterator[Item | Rejected]:
    paths_name, studies_name = f"{folder}_image_paths.csv", f"{folder}_labeled_studies.csv"
    listed = _read_listing(root.join(paths_name))
    studies = _read_listing(root.join(studies_name))
    unread = dict(listed or {})
    unseen = set(studies or {})
    for entry in root.join(folder).walk():
        path = f"{folder}/{entry.path}"
        row_label = unread.pop(path, None)
        match = _IMAGE.fullmatch(path)
        if match is None:
            yield Rejected(path, "not XR_<PART>/patient<N>/study<K>_<positive|negative>/image<I>.png")
            continue
        study = path.rpartition("/")[0]
        unseen.discard(study)
        label = _LABELS[match["label"]]
        study_label = (studies or {}).get(study)
        if listed is not None and path not in listed:
            yield Rejected(path, f"not listed in {paths_name}")
        elif study_label not in (None, "", str(label)):
            yield Rejected(path, f"labelled {study_label} in {studies_name}, {match['label']} by its folder")
        elif row_label not in (None, "", str(label)):
            yield Rejected(path, f"labelled {row_label} in {paths_name}, {match['label']} by its folder")
        else:
            yield Item(
                path=path,
                patient_id=match["patient"],
                study_id=f"{match['part']}/{match['study']}",
                fingerprint=fingerprint(entry),
                labels={ABNORMALITY.name: label},
                body_part=match["part"],
                view_index=int(match["number"]) - 1,
                split="test" if folder == "valid" else None,
            )
    for path in unread:
        yield Rejected(path, f"listed in {paths_name}, but there is no such file")
    for study in sorted(unseen):
        yield Rejected(study, f"listed in {studies_name}, but it has no image")


def _read_listing(location: Location) -> dict[str, str] | None:
    """Read path → second column ("" where there is none); None where there is no such list.

    Paths are cut to what follows the data set's own folder; a header line is any first line that is no such path.
    """
    if not location.is_file():
        return None
    try:
        text = location.read_bytes(max_bytes=_MOST_CSV_BYTES).decode("utf-8-sig")
        rows = [row for row in csv.reader(io.StringIO(text, newline="")) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{location} is not a readable CSV file ({error}): repair or remove it") from None
    result = {}
    for number, row in enumerate(rows):
        match = _LISTED.fullmatch(row[0].strip())
        if match:
            result[match["path"]] = row[1].strip() if len(row) > 1 else ""
        elif number > 0:
            # Kept as it is: no file answers to it, so that it ends in quarantine by name.
            result[row[0].strip()] = ""
    return result
