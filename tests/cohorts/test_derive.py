"""A cohort made of another: the same but for its images, finished shard by shard, refused where something else is."""

import numpy as np
import pytest

from mskray.cohorts import open_cohort
from mskray.cohorts.derive import Derived
from mskray.cohorts.schema import ABNORMALITY, MANIFEST, Derivation, pixels
from mskray.errors import UserError
from mskray.storage import locate


@pytest.fixture
def derived(tiny_cohort, tmp_path):
    cohort = tiny_cohort((ABNORMALITY,), [{"abnormality": 0}, {"abnormality": 1}, {"abnormality": None}])
    step = Derivation(
        uri=str(cohort.location), content_hash="", step="remove-flags", bundle="file:///b", bundle_hash="b1"
    )
    return Derived(cohort, locate(tmp_path / "made"), step)


def write(derived):
    entries = {}
    for shard, plan in derived.plans():
        table = derived.source.table(shard)
        images = 255 - pixels(table["image"], derived.source.schema.field("image"))
        entries[plan] = derived.write(plan, table, images, [[]] * shard.rows, {"images": shard.rows})
    return entries


def test_all_but_the_images_stays(derived):
    made, source = derived.commit(write(derived)), derived.source
    assert open_cohort(derived.out) == made
    made.verify()
    given, stored = source.read_shard(source.shards("test")[0]), made.read_shard(made.shards("test")[0])
    assert (stored["image"] == 255 - given["image"]).all()
    for name in set(given) - {"image", "findings"}:
        np.testing.assert_array_equal(stored[name], given[name])
    assert made.manifest.derived_from == derived.step
    assert (made.manifest.source, made.manifest.counts) == (source.manifest.source, source.manifest.counts)
    assert made.content_hash != source.content_hash
    assert made.quarantine() == source.quarantine()


def test_a_written_shard_is_known_again_until_the_model_is_another(derived):
    entries = write(derived)
    assert derived.finished() == entries
    other = Derived(derived.source, derived.out, derived.step.model_copy(update={"bundle_hash": "b2"}))
    assert other.finished() == {}
    other.commit(write(other))
    assert derived.finished() == {}, "shards of an older plan are deleted"
    assert len(open_cohort(derived.out).manifest.shards) == 1


def test_a_shard_that_is_gone_is_made_again(derived):
    (entry,) = write(derived).values()
    derived.out.join(entry["shard"]["path"]).delete()
    assert derived.finished() == {}


def test_what_it_would_overwrite_is_refused(derived, tmp_path):
    derived.check()
    with pytest.raises(UserError, match="is the cohort itself"):
        Derived(derived.source, derived.source.location, derived.step).check()
    derived.commit(write(derived))
    derived.check()
    with pytest.raises(UserError, match="already holds another cohort"):
        Derived(derived.source, derived.out, derived.step.model_copy(update={"uri": "file:///x"})).check()
    manifest = derived.source.manifest.model_copy(update={"shards": ()})
    locate(tmp_path / "plain").join(MANIFEST).write_json(manifest.model_dump(mode="json"))
    with pytest.raises(UserError, match="already holds another cohort"):
        Derived(derived.source, locate(tmp_path / "plain"), derived.step).check()
