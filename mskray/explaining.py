"""A loaded model at its explanation: which methods its members allow, and their maps for one class of each image."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from mskray.ensemble import Vote, Voter
from mskray.errors import UserError
from mskray.evaluation.calibration import decision
from mskray.explain.methods import check_methods
from mskray.families import Explainer, Explanation, Images, Prediction


@dataclass(frozen=True)
class LeftOut:
    """What a member does not allow: a method, or all of them where that is None; why, with the member's name."""

    method: str | None
    reason: str


class Explaining:
    """What each member of a model allows.

    `allowed` are the methods of each, None where nothing of it can be explained; `left_out` says what is not there.

    Args:
        methods: names of METHODS.
    Raises:
        UserError: an unknown method.
    """

    def __init__(self, voter: Voter, methods: Sequence[str]) -> None:
        check_methods(methods)
        self.voter, self.left_out = voter, list[LeftOut]()
        self.allowed = [self._allowed(index, methods) for index in range(len(voter.names))]

    @property
    def possible(self) -> bool:
        """Whether anything of the model can be explained."""
        return any(each is not None for each in self.allowed)

    @property
    def notes(self) -> list[str]:
        """What is left out and why, a line each."""
        return [each.reason for each in self.left_out]

    def refusal(self) -> UserError:
        """Why the model is not explained as asked, where something is left out."""
        return UserError(f"{self.voter.ensemble.name} cannot be explained so: {self.notes[0]}")

    def __call__(self, images: Images, target: int | None = None) -> tuple[Vote, list[Explanation | None]]:
        """Return what the model says of n radiographs, and each member's explanation of one class of each.

        Args:
            target: index of the class; the one that the model calls when None.
        """
        images = self.voter.seen(images)
        predictions = [predictor(images) for predictor in self.voter.predictors]
        vote = self.voter.combine(predictions)
        called = decision(vote.probabilities, self.voter.threshold)
        wanted = called if target is None else np.full(len(images), target)
        explanations = [
            None if methods is None else self.member(index, images, methods, wanted, said)
            for index, (methods, said) in enumerate(zip(self.allowed, predictions, strict=True))
        ]
        return vote, explanations

    def member(
        self, index: int, seen: Images, methods: Sequence[str], target: np.ndarray, said: Prediction
    ) -> Explanation:
        """Return a member's explanation of n radiographs that it has judged.

        Args:
            seen: as `Voter.seen` gives them.
            methods: some of those that it allows.
            target: (n,) index of the class.
            said: what the member says of the same radiographs.
        """
        return cast(Explainer, self.voter.predictors[index]).explain(seen, methods, target, said)

    def _allowed(self, index: int, methods: Sequence[str]) -> list[str] | None:
        """Try each method on a blank image: what a network does not allow shows before any image is read."""
        predictor, name, blank = self.voter.predictors[index], self.voter.names[index], np.zeros((64, 64), np.uint8)
        if not isinstance(predictor, Explainer):
            family = self.voter.bundles[index].family
            self.left_out.append(LeftOut(None, f"{name}: family {family} has no gradients to look into"))
            return None
        allowed = []
        for method in methods:
            try:
                predictor.explain(Images([blank]), [method])
                allowed.append(method)
            except UserError as error:
                self.left_out.append(LeftOut(method, f"{name}: {error}"))
        return allowed if allowed or predictor(Images([blank])).boxes else None
