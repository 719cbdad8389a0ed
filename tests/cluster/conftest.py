"""The cluster of several hosts, one for a session of tests as it takes half a minute, and cohorts in its store."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
from hosts import why_not
from ray_hosts import Driver, RayHosts
from small_work import ingest

sys.path.append(str(Path(__file__).parents[1] / "serving"))


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayHosts]:
    """Three Ray nodes and an object store, each a host of its own; skips where hosts cannot be made."""
    if reason := why_not():
        pytest.skip(reason)
    # The test itself reads what is in the store past the proxy: no fault is meant for it.
    with RayHosts(tmp_path_factory.mktemp("hosts")) as made, patch.dict(os.environ, made.store.env):
        yield made


@pytest.fixture
def healthy(cluster: RayHosts) -> Iterator[RayHosts]:
    """The cluster with every host up, and made whole again after the test."""
    yield cluster
    cluster.heal()


@pytest.fixture(scope="session")
def ingested(cluster: RayHosts) -> tuple[str, Driver]:
    """About 210 synthetic radiographs in shards of 24, and what ingested them."""
    return ingest(cluster, "phantom", "radiographs", {"patients": 80, "image_size": 140}, size=128)


@pytest.fixture(scope="session")
def radiographs(ingested: tuple[str, Driver]) -> str:
    """The cohort of `ingested`."""
    return ingested[0]
