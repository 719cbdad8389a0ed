"""Spines of blocks as files of foreign layouts, and an ingest without a cluster, for the tests of sources of discs."""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import SimpleITK
from block_spine import BlockSpine
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from mskray.cohorts.plan import make_plan
from mskray.cohorts.schema import pixels, shard_schema
from mskray.cohorts.shards import Entry, ShardJob, write_shard
from mskray.cohorts.sources import Item, get_source
from mskray.imaging.deidentify import Pseudonymiser
from mskray.imaging.volumes import Volume, to_plane
from mskray.storage import locate

MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"


def metaimage(path: Path, volume: Volume) -> Path:
    """A MetaImage (.mha) of a volume, its axes as they are."""
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(volume.pixels))
    lengths = np.linalg.norm(volume.affine[:3, :3], axis=0)
    image.SetSpacing([float(each) for each in lengths])
    image.SetDirection([float(each) for each in (volume.affine[:3, :3] / lengths).ravel()])
    image.SetOrigin([float(each) for each in volume.affine[:3, 3]])
    path.parent.mkdir(parents=True, exist_ok=True)
    SimpleITK.WriteImage(image, str(path), useCompression=True)
    return path


def spider_pair(root: Path, name: str, spine: BlockSpine, plane: str = "sagittal") -> None:
    """images/ and masks/ of one volume, stored in slices of a plane."""
    mask = replace(spine.volume, pixels=spine.mask())
    metaimage(root / "images" / f"{name}.mha", to_plane(spine.volume, plane))
    metaimage(root / "masks" / f"{name}.mha", to_plane(mask, plane))


def series(folder: Path, volume: Volume, prefix: str = "", uid: str = "1.2.4") -> Path:
    """A DICOM series of the volume's slices, file names in no order."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, plane in enumerate(volume.pixels):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = MR_IMAGE
        meta.MediaStorageSOPInstanceUID = f"1.2.3{len(prefix)}.{index + 1}"
        data = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
        data.SOPClassUID, data.SOPInstanceUID = MR_IMAGE, meta.MediaStorageSOPInstanceUID
        data.Modality, data.SeriesInstanceUID, data.StudyInstanceUID = "MR", uid, "1.2.5"
        data.InstanceNumber = index + 1
        data.Rows, data.Columns = plane.shape
        data.SamplesPerPixel, data.PixelRepresentation = 1, 0
        data.PhotometricInterpretation = "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
        slice_mm, row_mm, column_mm = volume.spacing_mm
        data.PixelSpacing, data.SliceThickness = [row_mm, column_mm], slice_mm
        axes = volume.axes
        data.ImageOrientationPatient = [*axes[2].tolist(), *axes[1].tolist()]
        data.ImagePositionPatient = (volume.affine @ [0, 0, index, 1])[:3].tolist()
        data.PixelData = np.rint(plane).astype(np.uint16).tobytes()
        data.save_as(folder / f"{prefix}{(index * 7) % len(volume.pixels) + 1}.dcm", enforce_file_format=True)
    return folder


def listing(name, location, **options):
    """(items by path, reasons by path); each path is there once."""
    source = get_source(name)
    found = list(source.items(locate(location), source.Options(**options)))
    items = {each.path: each for each in found if isinstance(each, Item)}
    reasons = {each.path: each.reason for each in found if not isinstance(each, Item)}
    assert len(items) + len(reasons) == len(found)
    return items, reasons


@dataclass
class Written:
    """What an ingest stored: columns of all shards (image as an array), reasons of quarantine by path, notes."""

    rows: dict
    image: np.ndarray
    reasons: dict
    notes: Counter


def ingest(name, location, out, size=80, **options):
    """Plan and write every shard in this process."""
    source = get_source(name)
    checked = source.Options(**options)
    given = None if location is None else locate(location)
    root = given and source.root(given, checked)
    tasks = source.tasks(given, checked)
    image = source.format(size, "uint8", "pad", checked)
    plan = make_plan(
        source.items(given, checked),
        tasks,
        Pseudonymiser(b"0" * 16),
        fractions=source.fractions(checked),
        resplit=False,
        seed=0,
        image_bytes=image.bytes,
        shard_rows=1000,
        context={},
    )
    job = ShardJob(source, checked, root.uri if root else None, locate(out).uri, image, tasks)
    reasons = {each.path: each.reason for each in plan.quarantined}
    tables, notes = [], Counter()
    for shard in plan.shards:
        entry = write_shard(job, shard, plan.table.slice(shard.start, shard.rows).to_pylist())
        reasons.update({each.path: each.reason for each in entry.quarantined})
        notes.update(Entry.from_json(entry.to_json()).notes)
        if entry.shard:
            table = pq.read_table(Path(out) / entry.shard.path, partitioning=None)
            tables.append(table.append_column("split", [[shard.split] * table.num_rows]))
    rows = [
        row
        for table in tables
        for row in table.drop_columns([name for name in ("image", "mask") if name in table.column_names]).to_pylist()
    ]
    field = shard_schema(image, tasks, masks=source.masks).field("image")
    stacks = [pixels(table["image"], field) for table in tables]
    assert len(rows) + len(reasons) == plan.listed
    return Written(rows, np.concatenate(stacks) if stacks else np.zeros((0, *image.shape)), reasons, notes)


def is_level_disc(stack, gap_share=10 / 30.8):
    """Whether the middle slice shows bodies at a half, the disc at 0.8, horizontal and centred."""
    middle = stack[len(stack) // 2].astype(float) / 255
    rows, columns = middle.shape
    bright = middle > 0.65
    height = gap_share * 0.35 * columns
    for column in (int(columns * 0.4), columns // 2, int(columns * 0.6)):
        places = np.flatnonzero(bright[:, column])
        if not len(places) or abs(len(places) - height) > 2 or abs(places.mean() + 0.5 - rows / 2) > 1:
            return False
    return abs(np.median(middle[int(rows * 0.25)][columns // 2 - 5 : columns // 2 + 5]) - 0.5) < 0.02
