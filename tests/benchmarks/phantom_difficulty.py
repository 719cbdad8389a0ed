"""Are phantoms hard for a linear model and learnable for a convolutional network? Both, on the same held-out patients.

    .venv/bin/python tests/benchmarks/phantom_difficulty.py                    # about 2,600 images at 160 px
    .venv/bin/python tests/benchmarks/phantom_difficulty.py --patients 700 --size 128 --epochs 12   # a short training
    .venv/bin/python tests/benchmarks/phantom_difficulty.py --sheet sheet.png  # only a contact sheet, truth drawn in

Patients are split 7 : 3. The linear models see 64 × 64 pixels, standardised, or their first 100 principal components.
The network (a small one, or any of torchvision's classifiers) starts from scratch.
"""

import argparse
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import torch
import torchvision
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch import nn

from mskray.imaging.phantoms import BODY_PARTS, KINDS, PhantomImage, PhantomSpec, render, studies
from mskray.imaging.regions import fit_to_canvas


@dataclass
class Images:
    """pixels (n, size, size) uint8, labels (n,), patients (n,), kinds (n,): what each image shows, or "none"."""

    pixels: np.ndarray
    labels: np.ndarray
    patients: np.ndarray
    kinds: np.ndarray

    def part(self, rows: np.ndarray) -> "Images":
        return Images(self.pixels[rows], self.labels[rows], self.patients[rows], self.kinds[rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=1000)
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--network", default="small", help="small, or the name of a torchvision classifier")
    parser.add_argument("--rate", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sheet", type=Path)
    options = parser.parse_args()
    spec = PhantomSpec(patients=options.patients, seed=options.seed, image_size=options.size)
    if options.sheet:
        cv2.imwrite(str(options.sheet), contact_sheet(PhantomSpec(patients=60, seed=options.seed)))
        print(options.sheet)
        return
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    began = time.monotonic(), time.process_time()
    images = rendered(spec, options.threads)
    held_out = images.patients % 10 >= 7
    train, test = images.part(~held_out), images.part(held_out)
    print(f"{len(train.labels)} training and {len(test.labels)} held-out images: {_since(began)}", flush=True)
    for name, scores in linear_scores(train, test):
        print(f"{name:34} AUROC {roc_auc_score(test.labels, scores):.3f}", flush=True)
    began = time.monotonic(), time.process_time()
    scores = network_scores(train, test, options)
    print(
        f"{options.network:34} AUROC {roc_auc_score(test.labels, scores):.3f}, {options.epochs} epochs: {_since(began)}"
    )
    for kind in KINDS:
        rows = (test.labels == 0) | (test.kinds == kind)
        print(f"  {kind:9} against normal {' ' * 8} AUROC {roc_auc_score(test.labels[rows], scores[rows]):.3f}")


def _since(began: tuple[float, float]) -> str:
    return f"{time.monotonic() - began[0]:.0f} s ({time.process_time() - began[1]:.0f} s of this process's CPU)"


def rendered(spec: PhantomSpec, workers: int) -> Images:
    """All images of a cohort, padded to squares."""
    places = [(study.index, view) for study in studies(spec) for view in range(len(study.views))]
    with ProcessPoolExecutor(workers) as pool:
        rows = list(pool.map(partial(_row, spec), places, chunksize=32))
    pixels, labels, patients, kinds = zip(*rows, strict=True)
    return Images(np.array(pixels), np.array(labels), np.array(patients), np.array(kinds))


def _row(spec: PhantomSpec, place: tuple[int, int]) -> tuple[np.ndarray, int, int, str]:
    image = render(spec, *place)
    canvas, _ = fit_to_canvas(image.pixels, spec.image_size)
    shown = {finding.kind for finding in image.findings}
    # A plated fracture counts as an implant: metal is what shows first.
    kind = next((kind for kind in ("implant", "lesion", "fracture") if kind in shown), "none")
    return canvas, image.label, image.study.patient, kind


def linear_scores(train: Images, test: Images) -> Iterator[tuple[str, np.ndarray]]:
    flat = [
        np.stack([cv2.resize(image, (64, 64), interpolation=cv2.INTER_AREA) for image in part.pixels])
        .reshape(len(part.labels), -1)
        .astype(np.float32)
        for part in (train, test)
    ]
    mean, spread = flat[0].mean(axis=0), flat[0].std(axis=0) + 8
    known, unknown = ((part - mean) / spread for part in flat)
    for strength in (1e-4, 1e-2):
        model = LogisticRegression(C=strength, max_iter=200).fit(known, train.labels)
        yield f"logistic regression, 64 px, C={strength:g}", model.decision_function(unknown)
    components = PCA(100, random_state=0).fit(known)
    model = LogisticRegression(C=1e-3, max_iter=500).fit(components.transform(known), train.labels)
    yield "logistic regression, 100 components", model.decision_function(components.transform(unknown))


class Small(nn.Module):
    """Six 3 × 3 convolutions; mean and maximum of the last map."""

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 16, 32, 64, 96, 128)
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(pairwise(widths)):
            stride = 2 if i == 0 else 1
            layers += [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] if 0 < i < 4 else []
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(2 * widths[-1], 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.features(images)
        return self.head(torch.cat((maps.amax((2, 3)), maps.mean((2, 3))), 1))


def network_scores(train: Images, test: Images, options: argparse.Namespace) -> np.ndarray:
    """Probabilities of "abnormal" on the held-out images."""
    known = torch.from_numpy(train.pixels)[:, None]
    labels = torch.from_numpy(train.labels)
    channels = 1 if options.network == "small" else 3
    net = Small() if options.network == "small" else torchvision.models.get_model(options.network, num_classes=2)
    net = net.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=1e-2)
    steps = options.epochs * (len(labels) // 32)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.rate, total_steps=steps, pct_start=0.15)
    rng = np.random.default_rng(0)
    for _ in range(options.epochs):
        order = rng.permutation(len(labels))
        for rows in order[: len(order) // 32 * 32].reshape(-1, 32):
            batch = _augmented(_scaled(known[rows], channels), rng)
            loss = nn.functional.cross_entropy(net(batch), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    net.eval()
    with torch.no_grad():
        batches = torch.from_numpy(test.pixels)[:, None].split(64)
        scores = torch.cat([net(_scaled(batch, channels)).softmax(1)[:, 1] for batch in batches])
    return scores.numpy()


def _scaled(batch: torch.Tensor, channels: int) -> torch.Tensor:
    return ((batch.float() / 255 - 0.3) / 0.25).expand(-1, channels, -1, -1)


def _augmented(batch: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Mirrored both ways at random, contrast and brightness changed a little."""
    axes = [axis for axis in (2, 3) if rng.random() < 0.5]
    batch = batch.flip(axes) if axes else batch
    size = (len(batch), 1, 1, 1)
    return batch * (1 + 0.15 * torch.randn(size)) + 0.15 * torch.randn(size)


def contact_sheet(spec: PhantomSpec, columns: int = 8, side: int = 256) -> np.ndarray:
    """A row of images per body part, with masks outlined green, abnormal boxes red and flags yellow."""
    rows = []
    for part in BODY_PARTS:
        chosen = [study for study in studies(spec) if study.body_part == part]
        tiles = [_tile(render(spec, study.index, view), side) for study in chosen for view in range(len(study.views))]
        rows.append(np.hstack(tiles[:columns]))
    return np.vstack(rows)


def _tile(image: PhantomImage, side: int) -> np.ndarray:
    colour = cv2.cvtColor(image.pixels, cv2.COLOR_GRAY2BGR)
    outlines, _ = cv2.findContours(image.mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(colour, outlines, -1, (0, 200, 0), 1)
    for finding in image.findings:
        x, y, w, h = finding.box
        shade = (0, 200, 255) if finding.kind == "flag" else (0, 0, 255)
        cv2.rectangle(colour, (x - 2, y - 2), (x + w + 1, y + h + 1), shade, 1)
    tile = np.zeros((side, side, 3), np.uint8)
    tile[: colour.shape[0], : colour.shape[1]] = colour
    return tile


if __name__ == "__main__":
    main()
