"""Do explanations point at what is wrong? Every method and family box against the true abnormality of phantoms.

    .venv/bin/python tests/benchmarks/localisation.py                                  # trains a resnet18: minutes
    .venv/bin/python tests/benchmarks/localisation.py --bundle bundles/kalm --bundle bundles/zoom
    .venv/bin/python tests/benchmarks/localisation.py --keep bundles/localised         # keeps it for mskray explain

One table: for each method's map the pointing game (its peak lies in the true box) and the mean overlap (IoU) of its
box with the true one; for boxes that a family gives (`Prediction.boxes`), their middle and themselves. Beside each
overlap stand those of boxes of the very same sizes at the image's centre and at random: what size alone earns.

Measured on the abnormal images of patients that nothing was trained on (the seed is another), for the class abnormal.
A bundle must know the classes normal and abnormal; its own canvas is used. The exit status is 1 where a box of a kalm
bundle does not overlap better than one of its size at the image's centre.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from mskray.bundles import Fitted, save_bundle
from mskray.errors import UserError
from mskray.explain.localisation import box_iou, centres, peaks, pointing_hits, stacked_boxes
from mskray.explain.methods import METHODS
from mskray.families import Explainer, Images, Predictor, family, load_predictor
from mskray.families.classifier import ClassifierConfig, ClassifierRecipe
from mskray.imaging.phantoms import PhantomSpec, render, studies
from mskray.imaging.regions import Fit
from mskray.storage import locate
from mskray.training.recipe import to_batch

CLASSES = ("normal", "abnormal")
PARTS = ("FOREARM", "HUMERUS", "WRIST")
CANVAS = 128
_BATCH = 32
_DRAWS = 50


@dataclass
class Phantoms:
    """Rendered images (rows, columns) uint8, their labels (n,), and of each the true boxes in its pixels."""

    pixels: list[np.ndarray]
    labels: np.ndarray
    boxes: list[list[tuple[int, int, int, int]]]

    def abnormal(self) -> "Phantoms":
        """The images that show an abnormality; an abnormal study may have one that shows none."""
        rows = [index for index, boxes in enumerate(self.boxes) if boxes]
        return Phantoms([self.pixels[row] for row in rows], self.labels[rows], [self.boxes[row] for row in rows])


@dataclass(frozen=True)
class Row:
    """One line of the table; shares with their standard errors over images, None where a point has no box."""

    name: str
    pointing: tuple[float, float]
    overlap: tuple[float, float] | None = None
    at_centre: float | None = None
    at_random: float | None = None

    @property
    def beats_centre(self) -> bool:
        """Whether its boxes overlap better than those of their sizes at the centre; a point has none to beat."""
        return self.overlap is None or self.at_centre is None or self.overlap[0] > self.at_centre


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    began = time.monotonic()
    spec = partial(PhantomSpec, image_size=options.size, lesion_scale=tuple(options.scale), parts=PARTS)
    held_out = rendered(spec(patients=options.held_out, seed=options.seed + 1), options.threads)
    models: list[tuple[str, str, Any]] = []
    if options.epochs:
        known = rendered(spec(patients=options.patients, seed=options.seed), options.threads)
        print(f"{len(known.labels):,} training images, {time.monotonic() - began:.0f} s", flush=True)
        fitted = trained(known, options)
        if options.keep:
            save_bundle(fitted, locate(options.keep), "localisation")
        models.append((options.backbone, "classifier", family("classifier").predictor(fitted)))
    for uri in options.bundle:
        bundle, loaded = load_predictor(uri)
        models.append((uri.rstrip("/").rpartition("/")[2], bundle.family, loaded))
    shown = held_out.abnormal()
    print(f"{len(shown.pixels)} abnormal of {len(held_out.labels)} held-out images\n")
    missed = []
    for name, kind, predictor in models:
        scores = np.concatenate([predictor(batch).probabilities[:, 1] for batch in batches(held_out.pixels)])
        print(f"{name}: AUROC {roc_auc_score(held_out.labels, scores):.3f} by image, held out")
        rows = list(measured(predictor, shown))
        _print(rows)
        if kind == "kalm":
            missed += [f"{name}: {row.name}" for row in rows if row.name not in METHODS and not row.beats_centre]
    print(f"{time.monotonic() - began:.0f} s, {options.threads} thread(s)")
    if missed:
        sys.exit(f"missed: no better than a box of the same size at the centre: {', '.join(missed)}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=600, help="of the training")
    parser.add_argument("--held-out", type=int, default=200, help="patients that are measured")
    parser.add_argument("--size", type=int, default=160, help="long side of the rendered images, px")
    parser.add_argument("--scale", type=float, nargs=2, default=(0.8, 1.0), help="smallest and largest abnormality")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--weights", default="none", help="none, imagenet, or the URI of a state dict")
    parser.add_argument("--rate", type=float, default=1e-3, help="peak learning rate")
    parser.add_argument("--epochs", type=int, default=8, help="0 measures the given bundles alone")
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--bundle", action="append", default=[], metavar="URI", help="measure this model too")
    parser.add_argument("--keep", metavar="URI", help="write the trained classifier as a bundle")
    return parser.parse_args()


def rendered(spec: PhantomSpec, workers: int) -> Phantoms:
    places = [(study.index, view) for study in studies(spec) for view in range(len(study.views))]
    with ProcessPoolExecutor(workers) as pool:
        pixels, labels, boxes = zip(*pool.map(partial(_render, spec), places, chunksize=32), strict=True)
    return Phantoms(list(pixels), np.array(labels), list(boxes))


def _render(spec: PhantomSpec, place: tuple[int, int]) -> tuple[np.ndarray, int, list[tuple[int, int, int, int]]]:
    image = render(spec, *place)
    return image.pixels, image.label, [found.box for found in image.findings if found.kind != "flag"]


def batches(pixels: Sequence[np.ndarray]) -> Iterator[Images]:
    for start in range(0, len(pixels), _BATCH):
        yield Images(pixels[start : start + _BATCH])


def trained(known: Phantoms, options: argparse.Namespace) -> Fitted:
    """Train a classifier in this process: the family's own recipe, a plain loop."""
    config = ClassifierConfig.model_validate(
        {
            "network": {"backbone": options.backbone, "weights": options.weights},
            "data": {"image_size": CANVAS, "batch_size": _BATCH},
        }
    )
    recipe = ClassifierRecipe(config, len(CLASSES))
    image = {"size": CANVAS, "dtype": "uint8", "fit": "pad"}
    entry = {"epoch": options.epochs}
    fitted = Fitted(
        family="classifier",
        config=config.model_dump(mode="json"),
        task="abnormality",
        classes=CLASSES,
        kind="radiograph",
        body_parts=PARTS,
        image=image,
        state=recipe.initial_state(),
        history=[entry],
        best=entry,
        labels=dict(zip(CLASSES, np.bincount(known.labels, minlength=2).tolist(), strict=True)),
        cohort={"uri": "phantoms rendered in memory", "content_hash": ""},
    )
    predictor: Any = family("classifier").predictor(fitted)
    inputs = np.stack([predictor.prepare(each) for each in known.pixels])
    network = predictor.network.train()
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-4)
    steps = len(inputs) // _BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.rate, total_steps=options.epochs * steps)
    rng = np.random.default_rng(options.seed)
    for epoch in range(options.epochs):
        total, began = 0.0, time.monotonic()
        for rows in rng.permutation(len(inputs))[: steps * _BATCH].reshape(steps, _BATCH):
            batch = to_batch({"image": inputs[rows], "label": known.labels[rows]}, torch.device("cpu"))
            loss = recipe.loss(network, recipe.augment(batch), None)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1}: loss {total / steps:.3f}, {time.monotonic() - began:.0f} s", flush=True)
    fitted.state.update({name: value.contiguous() for name, value in network.eval().state_dict().items()})
    return fitted


def measured(predictor: Predictor, shown: Phantoms) -> Iterator[Row]:
    """Rows of one model: its methods, where it allows them, the boxes of its family, a point at the centre."""
    assert isinstance(predictor, Explainer), "this family gives no explanations"
    image = predictor.image  # type: ignore[attr-defined]
    fit = Fit(image["size"], image["fit"])
    placed = [fit.placement(*pixels.shape) for pixels in shown.pixels]
    truth = stacked_boxes(
        [[each.to_canvas(box) for box in boxes] for each, boxes in zip(placed, shown.boxes, strict=True)]
    )
    content = np.array(
        [each.to_canvas((0, 0, *pixels.shape[::-1])) for each, pixels in zip(placed, shown.pixels, strict=True)]
    )
    points, boxes = explained(predictor, shown)
    for name, box in boxes.items():
        hits = pointing_hits(points.get(name, centres(box)), truth)
        yield Row(name, _mean(hits), _mean(box_iou(box, truth)), *_by_size_alone(box, content, truth))
    yield Row("centre of the image", _mean(pointing_hits(centres(content), truth)))
    rng = np.random.default_rng(0)
    draws = [
        pointing_hits(content[:, :2] + rng.random((len(content), 2)) * content[:, 2:], truth) for _ in range(_DRAWS)
    ]
    yield Row("random point", _mean(np.mean(draws, axis=0)))


def explained(predictor: Explainer, shown: Phantoms) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Peaks (n, 2) by method and boxes (n, 4) by method and by the family's own names, on the canvas."""
    first, methods = next(batches(shown.pixels[:1])), []
    for method in METHODS:
        try:
            predictor.explain(first, [method])
            methods.append(method)
        except UserError as error:
            print(f"  left out: {error}")
    points: dict[str, list[np.ndarray]] = {}
    boxes: dict[str, list[np.ndarray]] = {}
    for batch in batches(shown.pixels):
        found = predictor.explain(batch, methods, np.ones(len(batch), np.int64))
        for name, maps in found.maps.items():
            points.setdefault(name, []).append(peaks(maps))
        for name, box in found.boxes.items():
            boxes.setdefault(name, []).append(box)
    return tuple({name: np.concatenate(each) for name, each in kind.items()} for kind in (points, boxes))  # type: ignore[return-value]


def _by_size_alone(boxes: np.ndarray, content: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Mean overlap of boxes of the same sizes in the middle of the picture, and anywhere in it."""
    size = np.minimum(boxes[:, 2:], content[:, 2:])
    room = content[:, 2:] - size
    rng = np.random.default_rng(0)

    def overlap(place: np.ndarray | float) -> float:
        return float(box_iou(np.concatenate([content[:, :2] + room * place, size], axis=1), truth).mean())

    return overlap(0.5), float(np.mean([overlap(rng.random(size.shape)) for _ in range(_DRAWS)]))


def _mean(values: np.ndarray) -> tuple[float, float]:
    return float(values.mean()), float(values.std() / np.sqrt(len(values)))


def _print(rows: Sequence[Row]) -> None:
    print(f"  {'':20} {'pointing':>15} {'box IoU':>15} {'same, centre':>13} {'same, random':>13}")
    for row in rows:
        figures = f"{row.pointing[0]:9.3f} ±{row.pointing[1]:.3f}"
        if row.overlap is not None:
            figures += f" {row.overlap[0]:9.3f} ±{row.overlap[1]:.3f} {row.at_centre:13.3f} {row.at_random:13.3f}"
        print(f"  {row.name:20} {figures}")
    print(flush=True)


if __name__ == "__main__":
    main()
