"""Prediction with any torch recipe, by image or by study: images of any size in, answers and their reasons out."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from mskray.bundles import Fitted
from mskray.errors import UserError
from mskray.explain.methods import evidence, to_boxes
from mskray.families.base import Images, Prediction
from mskray.families.explanation import Explanation
from mskray.imaging.regions import fit_to_format
from mskray.models.backbones import Backbone
from mskray.training.recipe import Answer, Recipe, to_batch
from mskray.training.samples import study_starts


class TorchPredictor:
    """A recipe's network in evaluation mode.

    Images go the way of the training data: first onto the cohort's canvas and to its dtype, then to the network's
    input size, so that a served prediction equals the evaluated one and depends on no other image of its batch.
    """

    def __init__(self, recipe: Recipe, fitted: Fitted, device: str = "cpu") -> None:
        self.classes = fitted.classes
        self.recipe, self.image = recipe, fitted.image
        self.device = torch.device(device)
        self.network = recipe.build()
        self.network.load_state_dict(fitted.state)
        self.network.eval()
        for each in [*self.network.modules()]:
            if isinstance(each, Backbone):
                each.fold()
        self.network.to(self.device).to(memory_format=torch.channels_last)
        self._sees: Backbone | None = None
        with suppress(UserError):
            self._sees = recipe.explained(self.network)

    @torch.inference_mode()
    def __call__(self, images: Images) -> Prediction:
        """Return what the network says of n radiographs."""
        canvases = images.canvases(self.image["size"], self.image["fit"], self.image["dtype"])
        inputs = np.stack([self.recipe.config.data.input_format(canvas) for canvas in canvases])
        with self._watched() as seen:
            answer = self.recipe.answer(self.network, to_batch({"image": inputs}, self.device))
        return replace(self.prediction(answer), features=_of_whole(seen, len(images)))

    def explain(
        self,
        images: Images,
        methods: Sequence[str],
        target: np.ndarray | None = None,
        prediction: Prediction | None = None,
    ) -> Explanation:
        """See `Explainer.explain`."""
        said = self(images) if prediction is None else prediction
        wanted = said.probabilities.argmax(axis=1) if target is None else np.asarray(target, np.int64)
        maps: dict[str, np.ndarray] = {}
        if methods:
            network = self.recipe.explained(self.network)
            inputs = np.stack([self.prepare(pixels) for pixels in images.pixels])
            batch = to_batch({"image": inputs, "target": wanted}, self.device)
            for name in methods:
                maps[name] = evidence(name, network, batch["image"], batch["target"], self.image["size"])
        boxes = {name: to_boxes(each) for name, each in maps.items()}
        return Explanation(said, wanted, maps, {**boxes, **said.boxes})

    @contextmanager
    def _watched(self) -> Iterator[list[Tensor]]:
        """Give what the network that takes whole images sees meanwhile, (k, channels) each time, in order."""
        seen: list[Tensor] = []
        if self._sees is None:
            yield seen
            return
        handle = self._sees.watch(lambda maps: seen.append(maps.detach().mean(dim=(2, 3))))
        try:
            yield seen
        finally:
            handle.remove()

    def prepare(self, pixels: np.ndarray) -> np.ndarray:
        """Return one radiograph as the network's input, (size, size) in the cohort's dtype."""
        return self.recipe.config.data.input_format(self.canvas(pixels))

    def canvas(self, pixels: np.ndarray) -> np.ndarray:
        """Return one radiograph as the cohort would store it."""
        return fit_to_format(pixels, self.image["size"], self.image["fit"], self.image["dtype"])[0]

    def prediction(self, answer: Answer) -> Prediction:
        """Bring an answer to arrays, its boxes from the network's input to the canvas."""
        scale = self.image["size"] / self.recipe.config.data.image_size
        return Prediction(
            answer.probabilities.float().cpu().numpy(),
            {name: part.float().cpu().numpy() for name, part in answer.parts.items()},
            {name: box.float().cpu().numpy() * scale for name, box in answer.boxes.items()},
        )


class StudyPredictor(TorchPredictor):
    """The predictor of a recipe whose samples are studies.

    Args:
        slots: views that the network takes of a study, the first ones; None takes all there are.
    """

    def __init__(self, recipe: Recipe, fitted: Fitted, device: str = "cpu", slots: int | None = None) -> None:
        super().__init__(recipe, fitted, device)
        self._slots = slots

    @torch.inference_mode()
    def __call__(self, images: Images) -> Prediction:
        """Return what the network says of n radiographs, to each what it says of its study."""
        names = np.arange(len(images)) if images.studies is None else np.asarray(images.studies)
        starts = study_starts(names)
        counts = np.diff(starts, append=len(images))
        study = np.repeat(np.arange(len(starts)), counts)
        view = np.arange(len(images)) - starts[study]
        slots = self._slots or int(counts.max())
        taken = np.flatnonzero(view < slots)
        views = np.stack([self.prepare(images.pixels[index]) for index in taken.tolist()])
        inputs = np.zeros((len(starts), slots, *views.shape[1:]), views.dtype)
        inputs[study[taken], view[taken]] = views
        batch = to_batch({"image": inputs, "views": np.minimum(counts, slots)}, self.device)
        with self._watched() as seen:
            answer = self.recipe.answer(self.network, batch)
        found = self.prediction(answer)
        return Prediction(
            found.probabilities[study],
            {name: part[study] for name, part in found.parts.items()},
            {name: box[study] for name, box in found.boxes.items()},
            features=_of_whole(seen, len(images)),
        )


def _of_whole(seen: list[Tensor], count: int) -> np.ndarray | None:
    """Features of `count` whole images: what was seen first, later looks are at parts; None where it was not these."""
    return seen[0].float().cpu().numpy() if seen and len(seen[0]) == count else None
