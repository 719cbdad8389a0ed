"""One object that the store refuses is one row; keys that it refuses end the run."""

from collections.abc import Iterator

import pytest
from cohort_layouts import dicom, png
from fault_proxy import Fault, FaultProxy

from infra.seaweedfs import ObjectStore
from mskray.cohorts.plan import ShardPlan
from mskray.cohorts.schema import ImageFormat
from mskray.cohorts.shards import Entry, ShardJob, write_shard
from mskray.cohorts.sources import Item, Rejected, get_source
from mskray.errors import UserError
from mskray.storage import Location, locate

REASON = "no permission to read the file"


@pytest.fixture
def proxy(object_store: ObjectStore, s3_folder: Location, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """The way to the store; it refuses what it is told to."""
    with FaultProxy(object_store.port) as running:
        monkeypatch.setenv("AWS_ENDPOINT_URL", running.endpoint)
        yield running


def refuse(proxy, path, code="AccessDenied"):
    proxy.inject(Fault("status", path=path, status=403, code=code))


def shard(tmp_path, root) -> Entry:
    source, names = get_source("manifest"), ("a.png", "secret.png")
    empty = dict.fromkeys(("view", "laterality", "row"))
    rows = [
        {"path": name, "instance_id": name, "study_id": "s", "patient_id": "p", "body_part": "HAND", "view_index": 0}
        for name in names
    ]
    image = ImageFormat(size=32, dtype="uint8", fit="pad")
    job = ShardJob(source, source.Options(), root.uri, locate(tmp_path / "out").uri, image, ())
    return write_shard(job, ShardPlan("train", 0, "0" * 16, 0, 2), [row | empty for row in rows])


def test_a_forbidden_object_is_quarantined_and_tried_again(tmp_path, s3_folder, proxy):
    for name in ("a.png", "secret.png"):
        s3_folder.join(name).write_bytes(png(tmp_path / name).read_bytes())
    refuse(proxy, "secret")
    entry = shard(tmp_path, s3_folder)
    assert entry.shard is not None
    assert [(each.path, each.reason) for each in entry.quarantined] == [("secret.png", REASON)]
    assert not entry.complete


def test_keys_that_are_no_longer_taken_end_the_shard(tmp_path, s3_folder, proxy):
    s3_folder.join("a.png").write_bytes(png(tmp_path / "a.png").read_bytes())
    refuse(proxy, "", "ExpiredToken")
    with pytest.raises(UserError, match="no longer valid"):
        shard(tmp_path, s3_folder)


def test_a_forbidden_dicom_file_is_listed_as_rejected(tmp_path, s3_folder, proxy):
    values = {"StudyInstanceUID": "1.2.1", "PatientID": "P1"}
    for name in ("a", "secret"):
        s3_folder.join(name).write_bytes(dicom(tmp_path / name, **values).read_bytes())
    refuse(proxy, "secret")
    source = get_source("dicom")
    found = list(source.items(s3_folder, source.Options()))
    assert [item.path for item in found if isinstance(item, Item)] == ["a"]
    assert [(item.path, item.reason) for item in found if isinstance(item, Rejected)] == [("secret", REASON)]


def test_keys_that_expire_after_the_files_were_found_end_the_listing(tmp_path, s3_folder, proxy, monkeypatch):
    s3_folder.join("a").write_bytes(dicom(tmp_path / "a", StudyInstanceUID="1.2.1").read_bytes())
    entries, source = list(s3_folder.walk()), get_source("dicom")
    assert [entry.path for entry in entries] == ["a"]
    monkeypatch.setattr(Location, "walk", lambda location: iter(entries))
    refuse(proxy, "", "ExpiredToken")
    with pytest.raises(UserError, match="no longer valid"):
        list(source.items(s3_folder, source.Options()))
