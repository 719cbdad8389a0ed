"""Figures of a running ingest, for Prometheus: counted with Ray's own metrics where shards are written.

Ray's exporter on each node has them, as `ray_mskray_ingest_images_total` and `ray_mskray_ingest_bytes_total`; the rate
of the cluster is the sum of their rates.
"""

from functools import cache

from ray.util.metrics import Counter


@cache
def _meters() -> tuple[Counter, Counter]:
    images = Counter("mskray_ingest_images", "Images written into shards.", tag_keys=("source",))
    return images, Counter("mskray_ingest_bytes", "Bytes of shards written.", tag_keys=("source",))


def count_written(source: str, images: int, written: int) -> None:
    """Count a shard of so many images and bytes; in a Ray task or actor."""
    for meter, amount in zip(_meters(), (images, written), strict=True):
        if amount:  # a counter refuses to count nothing
            meter.inc(amount, {"source": source})
