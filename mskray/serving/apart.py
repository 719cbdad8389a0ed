"""Members in deployments of their own, each with its own replicas and its own share of a GPU.

The ensemble's replica holds their descriptions and asks them; all else is as where they run fused, and so are the
numbers.
"""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import cycle
from math import ceil
from typing import Any

import numpy as np
from ray.serve.handle import DeploymentHandle

from mskray.bundles import Bundle, read_description
from mskray.ensemble import Member, Voter, describe, load_members
from mskray.errors import UserError
from mskray.families import Explainer, Explanation, Images, Prediction, Predictor
from mskray.families.loading import load_predictor

_LONGEST_S = 600.0
_EXPLAINS = "explains"
"""What is asked of a predictor beside its methods: whether it is an `Explainer`."""


class Loaded:
    """Predictors by URI, the last ones that were asked for.

    As many are kept as the ensemble that answers has here, and once more: the one before may still answer what it
    began.
    """

    def __init__(self, device: str) -> None:
        self._device, self._kept = device, 0
        self._known: OrderedDict[tuple[str, str], Predictor] = OrderedDict()

    def call(self, uri: str, expected: str, here: int, method: str, arguments: tuple[Any, ...]) -> Any:
        """Call a method of the predictor of a bundle.

        Args:
            expected: the bundle's hash.
            here: members of its ensemble that are asked here.
        Raises:
            UserError: the bundle has changed, or cannot be loaded.
        """
        self._kept = max(self._kept, 2 * here)
        predictor = self._known.get((uri, expected))
        if predictor is None:
            bundle, predictor = load_predictor(uri, self._device)
            if bundle.hash != expected:
                raise UserError(f"member {uri} has changed since the ensemble was made: make the ensemble again")
            self._known[uri, expected] = predictor
            while len(self._known) > self._kept:
                self._known.popitem(last=False)
        self._known.move_to_end((uri, expected))
        return isinstance(predictor, Explainer) if method == _EXPLAINS else getattr(predictor, method)(*arguments)


class RemotePredictor:
    """A predictor in another deployment, one of `here` that this ensemble has there."""

    def __init__(self, handle: DeploymentHandle, member: Member, here: int, classes: tuple[str, ...]) -> None:
        self._handle, self._member, self._here, self.classes = handle, member, here, classes

    def __call__(self, images: Images) -> Prediction:
        found: Prediction = self._call("__call__", images)
        return found

    def _call(self, method: str, *arguments: Any) -> Any:
        return _asked(self._handle, self._member, self._here, method, *arguments).result(timeout_s=_LONGEST_S)


class RemoteExplainer(RemotePredictor):
    """One that can say why."""

    def explain(
        self,
        images: Images,
        methods: Sequence[str],
        target: np.ndarray | None = None,
        prediction: Prediction | None = None,
    ) -> Explanation:
        """As `mskray.families.Explainer`."""
        found: Explanation = self._call("explain", images, methods, target, prediction)
        return found


def load_apart(uri: str, handles: Sequence[DeploymentHandle]) -> Voter:
    """Return an ensemble's voter whose members are asked through these handles, in turn where they are fewer."""
    ensemble = describe(uri)
    here = ceil(len(ensemble.members) / len(handles))
    # All are asked before the first is waited for: they load at the same time.
    asked = iter(
        [
            (handle, _asked(handle, member, here, _EXPLAINS))
            for member, handle in zip(ensemble.members, cycle(handles), strict=False)
        ]
    )

    def remote(member: Member, name: str, device: str) -> tuple[Bundle, Predictor]:
        handle, explains = next(asked)
        bundle = read_description(member.uri)
        kind = RemoteExplainer if explains.result(timeout_s=_LONGEST_S) else RemotePredictor
        return bundle, kind(handle, member, here, bundle.classes)

    return load_members(ensemble, uri, load=remote)


def _asked(handle: DeploymentHandle, member: Member, here: int, method: str, *arguments: Any) -> Any:
    return handle.call.remote(member.uri, member.hash, here, method, arguments)
