"""Prediction with any torch recipe: images of any size in, class probabilities out."""

import numpy as np
import torch

from mskray.families.base import Fitted, Images, Prediction
from mskray.imaging.intensity import to_uint8
from mskray.imaging.regions import fit_to_canvas
from mskray.training.recipe import Recipe, to_unit_range


class TorchPredictor:
    """A recipe's network in evaluation mode.

    Images go the way of the training data: first onto the cohort's canvas, then to the network's input size, so that
    a served prediction equals the evaluated one.
    """

    def __init__(self, recipe: Recipe, fitted: Fitted, device: str = "cpu") -> None:
        self.classes = fitted.classes
        self._recipe, self._image = recipe, fitted.image
        self._device = torch.device(device)
        self._network = recipe.build()
        self._network.load_state_dict(fitted.state)
        self._network.to(self._device).to(memory_format=torch.channels_last).eval()

    @torch.inference_mode()
    def __call__(self, images: Images) -> Prediction:
        """Return (n, classes) probabilities of n radiographs."""
        batch = np.stack([self._prepare(pixels) for pixels in images.pixels])
        probabilities = self._recipe.probabilities(self._network, to_unit_range(batch, self._device))
        return Prediction(probabilities.float().cpu().numpy())

    def _prepare(self, pixels: np.ndarray) -> np.ndarray:
        if self._image["dtype"] == "uint8":
            pixels = to_uint8(pixels)
        for size in (self._image["size"], self._recipe.config.data.image_size):
            if pixels.shape != (size, size):
                pixels = fit_to_canvas(pixels, size, self._image["fit"])[0]
        return pixels
