"""Pairs to votes: what evaluation says of the same pictures, doubts, what cannot be judged."""

from pathlib import Path

import numpy as np
import pytest
from serving_samples import fitted as classifier
from small_pairs import fitted, picture

from mskray.bundles import save_bundle
from mskray.cohorts.schema import ImageFormat
from mskray.cohorts.shards import to_cell
from mskray.cohorts.sources._pairs import Seen, joined
from mskray.ensemble import Voter, join, load, load_members
from mskray.errors import UserError
from mskray.families import Images
from mskray.imaging.decode import DecodedImage
from mskray.imaging.intensity import to_dtype
from mskray.serving.pairs import PairReader
from mskray.serving.problems import Problem
from mskray.serving.schemas.studies import DecodedView
from mskray.storage import locate


@pytest.fixture(scope="module")
def voter(tmp_path_factory: pytest.TempPathFactory) -> Voter:
    """Two members of different words, the second with three times the weight."""
    folder = tmp_path_factory.mktemp("pairs")
    for name, words in (("few", 6), ("many", 12)):
        save_bundle(fitted(words), locate(folder / name), fingerprint=name)
    return load_members(join([str(folder / "few"), str(folder / "many")], "change", [1.0, 3.0]), "change")


@pytest.fixture(scope="module")
def reader(voter: Voter) -> PairReader:
    return PairReader(voter)


def view(pixels: np.ndarray, body_part: str = "KNEE") -> DecodedView:
    return DecodedView(7, None, "png", pixels, body_part)


def cell(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """A pair as its source and a shard's writer make it."""
    images = [DecodedImage(each, "png", 8, None, {}) for each in (before, after)]
    loaded = joined(*(Seen(each) for each in images))
    return to_cell(loaded.pixels, ImageFormat(size=96, dtype="uint8", fit="pad", slices=2))[0]


@pytest.mark.parametrize(
    ("size", "dtypes"),
    [(96, ("uint8", "uint8")), (150, ("uint8", "uint8")), (150, ("uint16", "uint16")), (131, ("uint8", "uint16"))],
)
def test_a_pair_is_judged_as_a_cohort_s_is(
    reader: PairReader, voter: Voter, size: int, dtypes: tuple[str, str]
) -> None:
    before, after = (to_dtype(picture(seed, size)[: size - 20], dtype) for seed, dtype in enumerate(dtypes))
    expected = voter(Images([cell(before, after)]))
    said = reader.vote(view(before), view(after))
    np.testing.assert_allclose(list(said.pair.probabilities.values()), expected.probabilities[0], atol=1e-7)
    assert list(said.members) == ["few", "many"]
    for name, shares in said.members.items():
        np.testing.assert_allclose(list(shares.values()), expected.members[name][0], atol=1e-7)
    assert said.pair.label == voter.classes[int(expected.probabilities[0].argmax())]
    assert said.pair.threshold is None
    assert said.warnings == []
    assert said.model.hash == reader.described.ensemble.hash


def test_the_other_order_is_another_answer(reader: PairReader) -> None:
    one, other = view(picture(3)), view(picture(4))
    assert reader.vote(one, other).members != reader.vote(other, one).members


DIM = (picture(0) // 10).astype(np.uint8)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (view(picture(0)), view(picture(1), ""), []),
        (view(picture(0), "HAND"), view(picture(1)), [("body-part-not-trained", [0])]),
        (view(picture(0), "HAND"), view(picture(1), "HAND"), [("body-part-not-trained", [0, 1])]),
        (view(picture(0)), view(DIM), [("too-dark", [1])]),
        (view(picture(0)), view(picture(1, 120)), [("sizes-differ", [0, 1])]),
    ],
)
def test_doubts(reader: PairReader, before: DecodedView, after: DecodedView, expected: list[tuple]) -> None:
    assert [(each.code, each.views) for each in reader.vote(before, after).warnings] == expected


def test_what_no_member_can_judge_is_a_problem(reader: PairReader) -> None:
    with pytest.raises(Problem) as caught:
        reader.vote(view(picture(0)), view(np.zeros((96, 96), np.uint8)))
    assert (caught.value.kind, caught.value.status_code) == ("unjudged-pair", 422)
    assert caught.value.detail == "after: the image is flat: no key point: send other pictures"


def test_it_says_what_it_serves(reader: PairReader) -> None:
    assert {member.serves for member in reader.described.members} == {"pairs"}
    assert [member.weight for member in reader.described.members] == [0.25, 0.75]
    assert reader.described.ensemble.task == "change"


def test_what_learned_from_radiographs_is_refused(tmp_path: Path) -> None:
    save_bundle(classifier(0, ("KNEE",)), locate(tmp_path / "knees"), "f00")
    with pytest.raises(UserError, match="knees is a classifier of radiographs: pairs are judged by") as caught:
        PairReader(load(str(tmp_path / "knees")))
    assert "\n" not in str(caught.value)
