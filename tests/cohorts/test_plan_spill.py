"""Planning on disk makes what planning in memory made: the same shards, rows, splits and quarantine."""

import pytest
from planned_sources import CASES, EXPECTED, VARIANTS, digest, planned


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("case", CASES)
def test_a_plan_is_what_it_always_was(case, variant):
    assert digest(planned(case, **VARIANTS[variant])) == EXPECTED[case, variant]


@pytest.mark.parametrize("held", [0, 3, 500])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("case", CASES)
def test_it_is_the_same_when_it_goes_to_disk(case, variant, held):
    assert digest(planned(case, **VARIANTS[variant], held=held)) == EXPECTED[case, variant]
