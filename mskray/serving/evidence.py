"""Why the members say what they say of a study: their maps, made piece by piece so that nobody else waits for all."""

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np

from mskray.explaining import Explaining
from mskray.families import Images
from mskray.imaging.regions import from_canvas
from mskray.serving.answers import Judged
from mskray.serving.schemas.common import Doubt
from mskray.serving.schemas.studies import DecodedView, Evidence

_PIECE = 8
"""Views that are explained together: a backward pass keeps every layer's maps."""


class Explained:
    """The evidence on one study, after `pieces` was gone through.

    Args:
        views: of the study. judged: a batch of these views alone.
        methods: names of METHODS.
        target: index of the class that is explained.
    """

    def __init__(
        self, explaining: Explaining, views: list[DecodedView], judged: Judged, methods: Sequence[str], target: int
    ) -> None:
        self._explaining, self._views, self._judged = explaining, views, judged
        self._methods, self._target = methods, target
        self.evidence: list[list[Evidence]] = [[] for _ in views]

    def pieces(self) -> Iterator[None]:
        """Work, a method of a member on some views at a time."""
        allowed = [each or [] for each in self._explaining.allowed]
        for index, method in product(range(len(allowed)), self._methods):
            if method in allowed[index]:
                for start in range(0, len(self._views), _PIECE):
                    self._explain(index, method, slice(start, start + _PIECE))
                    yield

    def doubts(self) -> list[Doubt]:
        """What was asked for and is not there."""
        missing = (
            each.reason for each in self._explaining.left_out if each.method is None or each.method in self._methods
        )
        return [Doubt(code="not-explained", views=[], message=reason) for reason in missing]

    def _explain(self, index: int, method: str, rows: slice) -> None:
        voter, seen, views = self._explaining.voter, self._judged.seen, self._views[rows]
        images = Images(seen.pixels[rows], seen.body_parts[rows])
        said, target = self._judged.predictions[index].part(rows), np.full(len(views), self._target)
        explanation = self._explaining.member(index, images, [method], target, said)
        for view, found, canvas in zip(views, self.evidence[rows], explanation.maps[method], strict=True):
            height, width = view.pixels.shape
            # What the canvas adds around the image is nothing of it, though a network may look there too.
            shares = from_canvas(canvas, height, width, voter.bundles[index].image["fit"])
            if shares.any():
                # The content of the canvas is the whole of the view.
                box = (0.0, 0.0, float(width), float(height))
                pixels = np.rint(shares * (255 / shares.max())).astype(np.uint8)
                found.append(Evidence(voter.names[index], method, voter.classes[self._target], box, pixels))
