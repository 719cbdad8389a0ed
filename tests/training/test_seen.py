"""The digest of an epoch's rows: the same in any order and any parts, another for any row lost or doubled."""

import numpy as np
import pytest

from mskray.training.plan import Rows
from mskray.training.seen import Seen

ALL = [(shard, row) for shard in range(7) for row in range(50)]


def seen(pairs: list[tuple[int, int]]) -> Seen:
    shard, row = np.array(pairs, np.int64).reshape(-1, 2).T
    return Seen().with_rows(Rows(shard, row))


def test_order_and_parts_do_not_matter() -> None:
    shuffled = [ALL[place] for place in np.random.default_rng(0).permutation(len(ALL))]
    whole = seen(ALL)
    assert whole.samples == 350
    assert seen(shuffled) == whole
    assert seen(shuffled[:100]) + seen(shuffled[100:101]) + seen([]) + seen(shuffled[101:]) == whole
    assert len(whole.digest) == 32


@pytest.mark.parametrize(
    "other",
    [ALL[:-1], [*ALL, ALL[0]], [*ALL[:-1], ALL[0]], [*ALL[:-1], (7, 0)], [(row, shard) for shard, row in ALL]],
    ids=["lost", "doubled", "one for another", "foreign", "exchanged"],
)
def test_any_other_rows_have_another_digest(other: list[tuple[int, int]]) -> None:
    assert seen(other).digest != seen(ALL).digest


def test_no_two_rows_are_alike() -> None:
    each = {seen([(shard, row)]).digest for shard in range(100) for row in range(100)}
    assert len(each) == 10_000
