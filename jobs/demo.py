"""The whole path once, on this machine: bucket → cohort → two models → ensemble → report → served answer.

    make demo                          synthetic radiographs, a local S3 store
    make demo DATA=FOLDER              a folder in MURA's or the knee OA data set's layout
    make demo STORE=file               plain files where the S3 store would be

Everything is started here and stopped here, also after Ctrl-C and after a failure. The report stays in demo-out/.
"""

import argparse
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

OUT = Path("demo-out")
SIZE = 96
# Two small networks of different descent; more images mean fewer passes, so that the time stays the same.
BACKBONES = {"resnet18": 1e-3, "mobilenet_v2": 2e-3}
IMAGE_PASSES = {"resnet18": 7_500, "mobilenet_v2": 9_000}
# Plain cases, because the networks start from nothing and have a minute.
PHANTOMS = {"patients": 600, "image_size": 160, "lesion_scale": [0.8, 1.0], "parts": ["FOREARM", "HUMERUS", "WRIST"]}


def main() -> int:
    arguments = _arguments()
    signal.signal(signal.SIGTERM, _interrupt)
    started = time.monotonic()
    from mskray.cli import quiet_ray
    from mskray.errors import UserError

    quiet_ray()
    try:
        source = _source(arguments.data)
        if arguments.data and Path(arguments.data).resolve().is_relative_to(OUT.resolve()):
            raise UserError(f"DATA={arguments.data} lies in {OUT}/, which the demo empties: move it elsewhere")
        shutil.rmtree(OUT, ignore_errors=True)
        OUT.mkdir()
        with _store(arguments.store) as base:
            _run(source, arguments.data, base)
    except KeyboardInterrupt:
        print("\nstopped; nothing is left running", file=sys.stderr)
        return 130
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"\nThe whole path took {time.monotonic() - started:.0f} s. Report: {OUT / 'report' / 'report.html'}")
    return 0


def _run(source: str, data: str | None, base: str) -> None:
    import mskray.serving.run  # noqa: F401  (Serve's logger speaks again when it is imported after the session)
    from mskray import cluster
    from mskray.cohorts.ingest import ingest
    from mskray.progress import Display
    from mskray.verbs.ensemble import make_ensemble
    from mskray.verbs.evaluate import evaluate_model, figure_lines

    show = Display()
    _say(f"1/6  ingest: {source} radiographs become a cohort at {base}/cohort")
    options = PHANTOMS if source == "phantom" else {}
    settings: dict[str, Any] = {"size": SIZE}
    if source == "knee-oa":
        settings["split_fractions"] = [0.7, 0.15, 0.15]  # its own test split may be absent
    with cluster.session():
        summary = ingest(source, data, f"{base}/cohort", options, settings, report=show)
        show.end()
        counts = summary.counts
        print(f"     {counts.listed:,} listed = {counts.images:,} in shards + {counts.quarantined:,} in quarantine")
        bundles = []
        for step, backbone in enumerate(BACKBONES, start=2):
            _say(f"{step}/6  train: {backbone}")
            bundles.append(_train(backbone, base, counts.splits["train"].images, show))
        _say("4/6  ensemble: soft voting, calibrated on the validation split")
        joined = make_ensemble(bundles, f"{base}/ensemble", calibrate=f"{base}/cohort", report=show)
        show.end()
        print(f"     temperature {joined.calibration.temperature:.2f}, threshold {joined.threshold:.2f}")
        _say("5/6  evaluate: held-out studies")
        result, _ = evaluate_model(
            f"{base}/ensemble", f"{base}/cohort", "test", str(OUT.resolve() / "report"), report=show
        )
        show.end()
        print("     " + figure_lines(result).replace("\n", "\n     "))
        _say("6/6  serve: one held-out study over HTTP")
        _ask(f"{base}/ensemble", f"{base}/cohort")


def _train(backbone: str, base: str, images: int, show: Any) -> str:
    from mskray.verbs.train import parse_job, train

    job = {
        "family": "classifier",
        "cohort": f"{base}/cohort",
        "out": f"{base}/bundles/{backbone}",
        "task": "abnormality",
        "network": {"backbone": backbone, "weights": "none"},
        "data": {"image_size": SIZE},
        "optimizer": {"learning_rate": BACKBONES[backbone]},
        "schedule": {"name": "one_cycle"},
        "loop": {"epochs": max(1, min(12, IMAGE_PASSES[backbone] // images))},
    }
    bundle = train(*parse_job(job, "demo"), report=show)
    show.end()
    print(f"     best epoch {bundle.best['epoch']}: validation AUROC {bundle.best['val_auroc']:.3f}")
    return job["out"]


def _ask(model: str, cohort_uri: str) -> None:
    import cv2
    import requests

    from mskray.cohorts import open_cohort
    from mskray.serving.run import Place, start, stop
    from mskray.serving.settings import Offer

    cohort = open_cohort(cohort_uri)
    rows = cohort.metadata("test", ["instance_id", "study_id", "body_part", "label_abnormality"]).to_pylist()
    study = [row for row in rows if row["study_id"] == rows[0]["study_id"]]
    images = cohort.images("test", [row["instance_id"] for row in study])
    files = [
        ("views", (f"view{index}.png", cv2.imencode(".png", images[row["instance_id"]])[1].tobytes(), "image/png"))
        for index, row in enumerate(study)
    ]
    url = start(Offer(ensemble=model), Place(port=0))
    try:
        answer = requests.post(f"{url}/v1/studies", files=files, data={"body_part": study[0]["body_part"]}, timeout=60)
        answer.raise_for_status()
        truth = cohort.task("abnormality").classes[study[0]["label_abnormality"]]
        print(f"     POST {url}/v1/studies  {len(files)} view(s) of a {study[0]['body_part'].lower()}, truly {truth}")
        print("     " + answer.text)
    finally:
        stop()


def _source(data: str | None) -> str:
    """Tell the layout of a folder by its folders."""
    from mskray.errors import UserError

    if data is None:
        return "phantom"
    folder = Path(data)
    if any(folder.glob("train/XR_*")) or any(folder.glob("MURA-v1.1/train/XR_*")):
        return "mura"
    if any((folder / "train" / grade).is_dir() for grade in "01234"):
        return "knee-oa"
    raise UserError(
        f"DATA={data} has neither MURA's layout (train/XR_PART/…) nor the knee OA data set's (train/0 … train/4)"
    )


@contextmanager
def _store(kind: str) -> Iterator[str]:
    """Give the URI under which the demo keeps everything: a bucket of a local S3 store, or a folder."""
    if kind == "file":
        yield (OUT.resolve() / "store").as_uri()
        return
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from infra.seaweedfs import start_object_store

    print("0/6  starting a local S3 store (SeaweedFS) on loopback with new credentials")
    with start_object_store(OUT / "store") as store:
        os.environ.update(store.env)
        yield f"s3://{store.bucket}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder in MURA's or the knee OA data set's layout")
    parser.add_argument("--store", choices=["s3", "file"], default="s3")
    return parser.parse_args()


def _say(text: str) -> None:
    print(f"\n{text}", flush=True)


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
