"""Features of a cohort's images: the last spatial map of a network, averaged, with Ray Data.

Tasks read shards and bring them to the network's input; actors hold the network and write a file a shard. A shard is
one row to Ray Data, which would otherwise cut or join blocks as it likes.

Averaged maps are the penultimate layer of ResNet, DenseNet and Inception (ResNet-152: 2,048 features, ZHAW, section
IV-C). VGG's own penultimate layer has 4,096 and MobileNet's and EfficientNet's differ again; the averaged map means the
same for all of them.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch
from ray.data import ActorPoolStrategy
from ray.exceptions import RayError
from safetensors.torch import load, save
from torch import Tensor

from mskray.errors import user_error_in
from mskray.estimators.features import FeatureFiles
from mskray.models.backbones import Backbone
from mskray.progress import Progress, Report
from mskray.storage import Location
from mskray.training.feed import LOADER_CPUS, Split
from mskray.training.recipe import to_unit_range
from mskray.training.run import Resources

WEIGHTS = "network.safetensors"


@dataclass(frozen=True)
class Extraction:
    """What the actors need beside the shards.

    Args:
        backbone: a member of BACKBONES.
        state: its whole state, of `feature_network`.
        batch_size: images at a time.
    """

    backbone: str
    state: Mapping[str, Tensor]
    batch_size: int
    resources: Resources
    report: Report

    def run(self, split: Split, files: FeatureFiles, what: str) -> None:
        """Write the features of every shard of a split that has none yet. Raises UserError as the store does."""
        missing = files.missing()
        if not missing:
            return
        resources, weights = self.resources, files.folder.join(WEIGHTS)
        # As a file, not as an argument: an actor that Ray restarts may find large arguments gone
        # (https://github.com/ray-project/ray/issues/53727).
        weights.write_bytes(save({name: value.contiguous() for name, value in self.state.items()}))
        shards = ray.data.from_items([{"shard": number} for number in missing], override_num_blocks=len(missing))
        written = shards.map_batches(shard_reader(split), batch_size=1, num_cpus=LOADER_CPUS).map_batches(
            _Extractor,
            fn_constructor_args=(self.backbone, weights, self.batch_size, files, resources.workers, resources.gpu),
            batch_size=1,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=resources.workers),
            num_cpus=resources.cpus_per_worker,
            num_gpus=resources.gpus,
        )
        done = files.rows - sum(files.counts[number] for number in missing)
        try:
            for part in written.iter_batches(batch_size=None, batch_format="numpy"):
                done += int(np.sum(part["rows"]))
                self.report(Progress(f"features of {what}", done, files.rows))
        except RayError as error:
            raise user_error_in(error) or error from error


def feature_network(backbone: str) -> Backbone:
    """Return the network without weights; its one-output head is not used."""
    return Backbone(backbone, 1, pooled=True).eval()


@torch.inference_mode()
def feature_width(network: Backbone, size: int) -> int:
    """Return how many features a network has of an image of `size` px a side."""
    return int(network.maps(torch.zeros(1, 1, size, size)).shape[1])


@torch.inference_mode()
def features(network: Backbone, images: np.ndarray, batch_size: int, device: torch.device) -> np.ndarray:
    """Return features (n, channels) float32 of images (n, size, size), uint8 or uint16."""
    found: list[Tensor] = []
    for start in range(0, len(images), batch_size):
        batch = to_unit_range(images[start : start + batch_size], device)
        found.append(network.maps(batch).mean(dim=(2, 3)).float().cpu())
    return torch.cat(found).numpy()


def shard_reader(split: Split) -> Callable[[Any], Any]:
    """Return a function from one `shard` number to one row: the number, and its images as bytes with their shape."""

    def read(items: dict[str, np.ndarray]) -> pa.Table:
        number = int(items["shard"][0])
        images = split.load(number)["image"]
        row = {"shard": [number], "rows": [len(images)], "size": [split.input.size], "dtype": [images.dtype.name]}
        return pa.table({**row, "images": pa.array([images.tobytes()], pa.large_binary())})

    return read


class _Extractor:
    """A network in an actor."""

    def __init__(
        self, backbone: str, weights: Location, batch_size: int, files: FeatureFiles, workers: int, gpu: bool
    ) -> None:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // workers))
        self._device = torch.device("cuda" if gpu else "cpu")
        self._network = feature_network(backbone)
        self._network.load_state_dict(load(weights.read_bytes()))
        self._network.to(self._device).to(memory_format=torch.channels_last)
        self._batch_size, self._files = batch_size, files

    def __call__(self, rows: pa.Table) -> pa.Table:
        for row in rows.drop_columns("images").to_pylist():
            size = row["size"]
            images = np.frombuffer(rows["images"][0].as_buffer(), row["dtype"]).reshape(row["rows"], size, size)
            self._files.write(row["shard"], features(self._network, images, self._batch_size, self._device))
        return rows.select(["shard", "rows"])
