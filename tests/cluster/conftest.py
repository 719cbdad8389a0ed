"""The cluster of several hosts, one for a session of tests: it takes a minute to start."""

from collections.abc import Iterator

import pytest
from hosts import why_not
from ray_hosts import RayHosts


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayHosts]:
    """Three Ray nodes and an object store, each a host of its own; skips where hosts cannot be made."""
    if reason := why_not():
        pytest.skip(reason)
    with RayHosts(tmp_path_factory.mktemp("hosts")) as made:
        yield made


@pytest.fixture
def healthy(cluster: RayHosts) -> Iterator[RayHosts]:
    """The cluster with every host up, and made whole again after the test."""
    yield cluster
    cluster.heal()
