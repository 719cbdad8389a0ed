"""What the cluster of several hosts is given to do: small cohorts in many shards, and jobs that cut over two hosts."""

import json
from pathlib import Path
from typing import Any

from ray_hosts import Driver, RayHosts

SHARD_ROWS = 24

_INGEST = """
import json, sys
from mskray.cohorts.ingest import ingest
from mskray.progress import Display
from mskray.verbs.cohort import ingest_lines
source, out, options, settings = json.loads(sys.argv[1])
print(ingest_lines(ingest(source, None, out, options, settings, Display())))
"""

SPREAD = {"workers": 2, "placement": "spread"}
TRAINING = "RayTrainWorker"
"""Part of the name of Ray's tasks in which a training worker works."""

CLASSIFIER: dict[str, Any] = {
    "family": "classifier",
    "network": {"backbone": "mobilenet_v3_small", "weights": "none"},
    "data": {"image_size": 64, "batch_size": 8, "shuffle_window": 64},
    "loop": {"epochs": 2, "checkpoint_minutes": 0.05},
    "resources": SPREAD,
}
KALM: dict[str, Any] = {
    "family": "kalm",
    "network": {"backbone": "mobilenet_v3_small", "weights": "none", "size": 64},
    "data": {"image_size": 128, "batch_size": 8, "shuffle_window": 64},
    "optimizer": {"name": "adam", "learning_rate": 1e-3},
    "schedule": {"name": "none"},
    "loop": {"epochs": 1},
    "local": {"epochs": 1, "optimizer": {"name": "adam", "learning_rate": 1e-3}, "schedule": {"name": "none"}},
    "resources": SPREAD,
}
SPINENET: dict[str, Any] = {
    "family": "spinenet",
    "network": {"width": 0.05, "dropout": 0},
    "data": {"image_size": 84, "slices": 3, "batch_size": 4, "shuffle_window": 64},
    "loop": {"epochs": 2},
    "predict": {"augment": False},
    "resources": SPREAD,
}


def ingest(cluster: RayHosts, source: str, name: str, options: dict[str, Any], size: int) -> tuple[str, Driver]:
    """Make a cohort of many shards on the cluster; return its URI and what made it."""
    place = f"s3://{cluster.store.bucket}/cohorts/{name}"
    settings = {"size": size, "split_fractions": [0.6, 0.2, 0.2], "shard_rows": SHARD_ROWS}
    words = json.dumps([source, place, options, settings])
    driver = cluster.command(["python", "-c", _INGEST, words], environment={"RAY_ADDRESS": cluster.address})
    return place, driver.done(timeout=300)


def job_file(cluster: RayHosts, name: str, job: dict[str, Any]) -> Path:
    """Write a job where every host sees it."""
    path = cluster.shared / f"{name}.json"
    path.write_text(json.dumps(job))
    return path


def bundle_place(cluster: RayHosts, name: str) -> str:
    return f"s3://{cluster.store.bucket}/bundles/{name}"


def train(cluster: RayHosts, name: str, cohort: str, job: dict[str, Any], **more: Any) -> Driver:
    """Begin a training on the cluster, from its head; the bundle goes to `bundle_place(cluster, name)`."""
    whole = {**job, "cohort": cohort, "out": bundle_place(cluster, name)}
    return cluster.driver(["train", str(job_file(cluster, name, whole))], **more)
