"""How many radiographs a core brings into shards: the code of an ingest's tasks, in one process, by its CPU time.

    python -m infra.scale.writing --images 1000

The source is phantoms as PNG files of 512 px, stored at 224 px with `lz4`, on a local disk. CPU time is what a core
needs on its own, whatever else the machine does; waiting for the disk is not in it.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

from mskray.cohorts.plan import make_plan
from mskray.cohorts.shards import ShardJob, write_shard
from mskray.cohorts.sources import get_source
from mskray.imaging.deidentify import Pseudonymiser
from mskray.imaging.phantoms import PhantomSpec, render, studies
from mskray.storage import locate


def measure_writing(images: int, source_side: int = 512, side: int = 224) -> dict[str, float]:
    """Write so many phantoms into shards.

    Returns:
        images, images a second of CPU time (`images_a_cpu_s`), bytes of a source file and of a stored image.
    """
    with tempfile.TemporaryDirectory(prefix="mskray-scale-") as name:
        folder = Path(name)
        _phantoms(folder / "in", images, source_side)
        source = get_source("manifest")
        place, options = locate(folder / "in" / "images.csv"), source.Options()
        tasks = source.tasks(place, options)
        image = source.format(side, "uint8", "pad", options)
        plan = make_plan(
            source.items(place, options), tasks, Pseudonymiser(b"a key for simulations"), fractions=(1.0, 0.0, 0.0),
            resplit=True, seed=0, image_bytes=image.bytes, shard_rows=1024, context={},
        )  # fmt: skip
        job = ShardJob(source, options, source.root(place, options).uri, locate(folder / "out").uri, image, tasks)
        began = time.process_time()
        entries = [write_shard(job, shard, plan.rows(shard).to_pylist()) for shard in plan.shards]
        seconds = time.process_time() - began
        assert sum(entry.rows for entry in entries) == images
        stored = sum(entry.shard.bytes for entry in entries if entry.shard)
        read = sum(path.stat().st_size for path in (folder / "in").glob("*.png"))
        return {
            "images": images,
            "images_a_cpu_s": images / seconds,
            "source_bytes": read / images,
            "stored_bytes": stored / images,
        }


def _phantoms(folder: Path, images: int, side: int) -> None:
    import cv2

    folder.mkdir()
    spec, lines = PhantomSpec(patients=images, image_size=side), ["path,patient_id"]
    for study in studies(spec):
        for view in range(len(study.views)):
            path = f"{study.index}-{view}.png"
            cv2.imwrite(str(folder / path), render(spec, study.index, view).pixels)
            lines.append(f"{path},{study.index}")
            if len(lines) > images:
                (folder / "images.csv").write_text("\n".join(lines) + "\n")
                return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    print(json.dumps(measure_writing(parser.parse_args().images), indent=1))


if __name__ == "__main__":
    main()
