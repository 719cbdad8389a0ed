"""Members in deployments of their own, each with its own replicas and its own share of a GPU.

The ensemble's replica holds their descriptions and asks them; all else is as where they run fused, and so are the
numbers.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
from ray.serve.handle import DeploymentHandle

from mskray.bundles import Bundle, read_description
from mskray.ensemble import Member, Voter, describe, load_members
from mskray.errors import UserError
from mskray.families import Explanation, Images, Prediction, Predictor
from mskray.families.loading import load_predictor

_LONGEST_S = 600.0
_KEPT = 2
"""Predictors: of the ensemble that answers, and of the one before, which may still answer what it began."""


class Loaded:
    """Predictors by URI, the last ones that were asked for."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._known: OrderedDict[tuple[str, str], Predictor] = OrderedDict()

    def call(self, uri: str, expected: str, method: str, arguments: tuple[Any, ...]) -> Any:
        """Call a method of the predictor of a bundle. Raises UserError: the bundle has changed, there is no such."""
        predictor = self._known.get((uri, expected))
        if predictor is None:
            bundle, predictor = load_predictor(uri, self._device)
            if bundle.hash != expected:
                raise UserError(f"member {uri} has changed since the ensemble was made: make the ensemble again")
            self._known[uri, expected] = predictor
            while len(self._known) > _KEPT:
                self._known.popitem(last=False)
        self._known.move_to_end((uri, expected))
        found = getattr(predictor, method, None)
        if found is None:
            raise UserError(f"{uri} has no {method}")
        return found(*arguments)


class RemotePredictor:
    """A predictor in another deployment."""

    def __init__(self, handle: DeploymentHandle, member: Member, classes: tuple[str, ...]) -> None:
        self._handle, self._member, self.classes = handle, member, classes

    def __call__(self, images: Images) -> Prediction:
        found: Prediction = self._call("__call__", images)
        return found

    def explain(
        self,
        images: Images,
        methods: Sequence[str],
        target: np.ndarray | None = None,
        prediction: Prediction | None = None,
    ) -> Explanation:
        """As `mskray.families.Explainer`. Raises UserError where the member has no gradients to look into."""
        found: Explanation = self._call("explain", images, methods, target, prediction)
        return found

    def _call(self, method: str, *arguments: Any) -> Any:
        return self._handle.call.remote(self._member.uri, self._member.hash, method, arguments).result(
            timeout_s=_LONGEST_S
        )


def load_apart(uri: str, handles: Sequence[DeploymentHandle]) -> Voter:
    """Return an ensemble's voter whose members are asked through these handles, in turn where they are fewer."""
    places = iter(range(1_000_000))

    def remote(member: Member, name: str, device: str) -> tuple[Bundle, Predictor]:
        bundle = read_description(member.uri)
        return bundle, RemotePredictor(handles[next(places) % len(handles)], member, bundle.classes)

    return load_members(describe(uri), uri, load=remote)
