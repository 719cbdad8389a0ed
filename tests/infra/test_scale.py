"""The simulations run on a small scale and measure what they say; the tables of infra/SCALING.md are current."""

import json

import pyarrow.parquet as pq
import pytest

from infra.scale import needs
from infra.scale.planning import measure_plan
from infra.scale.simulate import main, record
from infra.scale.synthetic import planned, write_manifest
from infra.scale.writing import measure_writing
from mskray.cohorts.plan import make_plan
from mskray.cohorts.sources import Item, get_source
from mskray.imaging.deidentify import Pseudonymiser
from mskray.storage import locate


def test_a_synthetic_manifest_is_one_that_ingest_reads(tmp_path):
    write_manifest(tmp_path / "studies.parquet", 120_000)
    assert pq.ParquetFile(tmp_path / "studies.parquet").metadata.num_row_groups == 2
    source, place = get_source("manifest"), locate(tmp_path / "studies.parquet")
    options = source.Options()
    (task,) = source.tasks(place, options)
    items = list(source.items(place, options))
    assert len(items) == 120_000
    assert all(isinstance(item, Item) for item in items[::1000])
    assert len({item.path for item in items}) == 120_000
    assert {item.labels[task.name] for item in items} == {0, 1}
    assert 2 <= 120_000 / len({item.patient_id for item in items}) <= 5


def test_simulated_rows_are_as_wide_as_planned_ones(tmp_path):
    write_manifest(tmp_path / "studies.parquet", 500)
    source, place = get_source("manifest"), locate(tmp_path / "studies.parquet")
    options = source.Options()
    made = make_plan(
        source.items(place, options), source.tasks(place, options), Pseudonymiser(b"a key for these tests"),
        fractions=(1.0, 0.0, 0.0), resplit=False, seed=0, image_bytes=1, shard_rows=1000, context={},
    )  # fmt: skip
    assert planned(500).schema.equals(made.table.schema)
    assert planned(500).nbytes == pytest.approx(made.table.nbytes, rel=0.1)


def test_planning_is_measured(tmp_path):
    (found,) = (measure_plan(3000, tmp_path),)
    assert (found["rows"], found["shards"]) == (3000, needs.shards_of(3000, 224))
    assert found["peak_mb"] >= found["planning_peak_mb"] >= found["before_mb"] > 0
    assert found["cpu_us_a_row"] > 0
    assert list(tmp_path.iterdir()) == []


def test_writing_is_measured():
    found = measure_writing(12, source_side=64, side=32)
    assert found["images"] == 12
    assert found["images_a_cpu_s"] > 0
    assert 0 < found["stored_bytes"] < 64 * 64


def test_too_little_disk_is_told_before_work(tmp_path):
    with pytest.raises(SystemExit, match="GB may be needed"):
        main(["plan", "--rows", str(10**15), "--folder", str(tmp_path)])


def test_results_of_the_same_size_are_replaced(tmp_path):
    file = tmp_path / "measured.json"
    for seconds in (1.0, 2.0):
        record(file, "plan", [{"rows": 10, "listing_s": seconds}, {"rows": 5, "listing_s": seconds}])
    assert [(each["rows"], each["listing_s"]) for each in json.loads(file.read_text())["plan"]] == [(5, 2.0), (10, 2.0)]


def test_the_tables_are_current():
    made = needs.tables(needs.read_inputs())
    text = needs.PAGE.read_text()
    assert needs.page(text, made) == text, "run python -m infra.scale.needs --write"


@pytest.mark.parametrize(
    ("images", "shards"), [(1, 3), (1000, 4 + 1 + 1), (10**6, 4096 + 2 * 512), (10**8, 262_144 + 2 * 65_536)]
)
def test_shards_are_counted_as_the_plan_cuts_them(images, shards):
    assert needs.shards_of(images, 224) == shards


def test_needs_grow_with_the_work():
    inputs = needs.read_inputs()
    small, large = needs.ingest(inputs, 10**6, 1.0), needs.ingest(inputs, 10**8, 1.0)
    assert large.nodes > small.nodes
    assert max(small.writing_h, large.writing_h) <= 1.0
    assert large.planning_h == pytest.approx(100 * small.planning_h)
    assert needs.ingest(inputs, 10**6, 10.0).nodes <= small.nodes
    assert needs.train(inputs, 10**6, 64).hours < needs.train(inputs, 10**6, 8).hours
    assert needs.search(inputs, 1000, 64).money > needs.search(inputs, 100, 64).money


def test_every_input_says_where_it_comes_from():
    content = needs.read_inputs().content
    for section in ("nodes", "images", "rates", "work"):
        for name, each in content[section].items():
            assert each["from"] in ("measured", "assumed"), name
            assert each["source"], name
            assert each["value"] > 0, name
