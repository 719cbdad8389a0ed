"""How much is tried: always the same few examples, or as many as MSKRAY_FUZZ says.

make fuzz COUNT=20000
MSKRAY_FUZZ=2000 .venv/bin/python -m pytest tests/fuzz
"""

import os

from hypothesis import HealthCheck, settings

COUNT = int(os.environ.get("MSKRAY_FUZZ", "0"))
_CHECKS = (
    HealthCheck.too_slow,
    HealthCheck.data_too_large,
    HealthCheck.filter_too_much,
    HealthCheck.large_base_example,
)


def examples(small: int, share: float = 1.0) -> settings:
    """Settings of a test: so many examples where no count is given, else this share of the count."""
    if COUNT:
        most = max(1, int(COUNT * share))
        return settings(max_examples=most, database=None, deadline=None, suppress_health_check=_CHECKS, print_blob=True)
    return settings(max_examples=small, derandomize=True, database=None, deadline=None, suppress_health_check=_CHECKS)
