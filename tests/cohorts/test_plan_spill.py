"""Planning on disk makes what planning in memory made: the same shards, rows, splits and quarantine."""

import gc
import tempfile
from contextlib import closing

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planned_sources import CASES, EXPECTED, GRADE, KEYS, VARIANTS, digest, listing, planned

from mskray.cohorts import ledger
from mskray.cohorts.dealing import deal
from mskray.cohorts.listing import Listing
from mskray.cohorts.plan import ShardPlan
from mskray.cohorts.schema import ABNORMALITY
from mskray.cohorts.spill import Rows, Spill
from mskray.errors import UserError
from mskray.storage import locate


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("case", CASES)
def test_a_plan_is_what_it_always_was(case, variant):
    assert digest(planned(case, **VARIANTS[variant])) == EXPECTED[case, variant]


DISK = [*((case, "usual") for case in CASES), *(("everything", variant) for variant in ("resplit", "one row a shard"))]


@pytest.mark.parametrize(("case", "variant"), DISK)
def test_it_is_the_same_when_it_goes_to_disk(case, variant):
    # Nothing is held: every chunk of a listing, and every patient, goes to disk.
    assert digest(planned(case, **VARIANTS[variant], held=0)) == EXPECTED[case, variant]


@settings(max_examples=8, deadline=None)
@given(
    patients=st.integers(1, 60),
    seed=st.integers(0, 10**6),
    fractions=st.sampled_from([(0.7, 0.15, 0.15), (0.9, 0.05, 0.05), (0.5, 0.5, 0.0), (0.4, 0.2, 0.4)]),
    own=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_patients_are_dealt_as_in_memory(patients, seed, fractions, own):
    made = []
    for held in (0, 10**6):
        spill = Spill()
        listed = Listing((ABNORMALITY, GRADE), KEYS, spill, held)
        for item in listing(patients, seed, own, doubled=0.05):
            listed.add(item)
        listed.end()
        made.append(deal(listed, spill, fractions, seed=3, resplit=False))
        spill.close()
    assert made[0].states.tolist() == made[1].states.tolist()
    assert (made[0].own_splits, made[0].assigned) == (made[1].own_splits, made[1].assigned)


def test_a_chunk_larger_than_what_is_held_is_read_back_in_order():
    spill = Spill()
    rows = Rows(spill, "rows", pa.schema([("key", pa.uint64()), ("seq", pa.int64())]), held=100)
    keys = np.random.default_rng(0).integers(0, 2**64, 1000, np.uint64)
    for start in range(0, 1000, 30):
        part = keys[start : start + 30]
        seq = np.arange(start, start + len(part))
        rows.append(pa.RecordBatch.from_arrays([pa.array(part), pa.array(seq)], names=["key", "seq"]), part)
    read = pa.concat_tables(rows.parts(last=True))
    firsts = [key >> 56 for key in read["key"].to_pylist()]
    assert firsts == sorted(firsts)
    assert sorted(read["seq"].to_pylist()) == list(range(1000))
    of_part = [seq for key, seq in zip(read["key"].to_pylist(), read["seq"].to_pylist(), strict=True) if key >> 56 == 7]
    assert of_part == sorted(of_part)
    folder = spill.folder
    spill.close()
    assert not folder.exists()


def test_a_plan_takes_its_files_with_it():
    with closing(planned("everything", held=0)) as plan:
        folder = plan.spill.folder
        assert any(folder.iterdir())
        assert folder.stat().st_mode & 0o077 == 0, "paths may name patients"
    assert not folder.exists()
    plan = planned("everything", held=0)
    folder = plan.spill.folder
    del plan
    gc.collect()
    assert not folder.exists()


def test_no_room_for_temporary_files_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(UserError, match="set TMPDIR to a folder with more room"):
        planned("everything", held=0)


@pytest.mark.parametrize("number", [0, 99_999, 262_143])
def test_shards_of_any_number_are_found_again(tmp_path, number):
    shard = ShardPlan("train", number, "0123456789abcdef", 0, 1)
    out = locate(tmp_path)
    out.join(shard.path).write_bytes(b"x")
    out.join(shard.ledger).write_bytes(b"{}")
    assert set(ledger.existing(out)) == {shard.path, shard.ledger}
