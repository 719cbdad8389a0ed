"""Members in deployments of their own, each with its own replicas and its own share of a GPU.

The ensemble's replica holds their descriptions and asks them; all else is as where they run fused, and so are the
numbers.
"""

from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
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
    """A predictor in another deployment, one of `here` that this ensemble has there. Blocks: for threads, not loops."""

    def __init__(self, handle: DeploymentHandle, member: Member, here: int, classes: tuple[str, ...]) -> None:
        self._handle, self._member, self._here, self.classes = handle, member, here, classes

    def __call__(self, images: Images) -> Prediction:
        found: Prediction = self._call("__call__", images)
        return found

    def explains(self) -> bool:
        """Whether it is an `Explainer`; where it is not loaded yet it is then."""
        return bool(self._call(_EXPLAINS))

    def _call(self, method: str, *arguments: Any) -> Any:
        return self._handle.call.remote(self._member.uri, self._member.hash, self._here, method, arguments).result(
            timeout_s=_LONGEST_S
        )


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

    def found(member: Member, handle: DeploymentHandle) -> tuple[Bundle, Predictor]:
        bundle = read_description(member.uri)
        given = handle, member, here, bundle.classes
        return bundle, RemoteExplainer(*given) if RemotePredictor(*given).explains() else RemotePredictor(*given)

    # In threads: members load at the same time, and Serve lets nobody wait in a loop.
    with ThreadPoolExecutor(len(ensemble.members)) as pool:
        loaded = list(pool.map(found, ensemble.members, islice(cycle(handles), len(ensemble.members))))
    following = iter(loaded)  # in the order of the members, as they are asked for
    return load_members(ensemble, uri, load=lambda member, name, device: next(following))
