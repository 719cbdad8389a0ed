"""Prediction with any torch recipe: images of any size in, class probabilities out."""

import numpy as np
import torch

from mskray.families.base import Fitted, Images, Prediction
from mskray.imaging.regions import fit_to_format
from mskray.training.recipe import Recipe, to_unit_range


class TorchPredictor:
    """A recipe's network in evaluation mode.

    Images go the way of the training data: first onto the cohort's canvas and to its dtype, then to the network's
    input size, so that a served prediction equals the evaluated one and depends on no other image of its batch.
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
        """Return one radiograph as the network's input, (size, size) in the cohort's dtype."""
        image = self._image
        canvas = fit_to_format(pixels, image["size"], image["fit"], image["dtype"])[0]
        return self._recipe.config.data.input_format(canvas)
