"""The deployments as the routes see them."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from mskray.errors import UserError, user_error_in
from mskray.imaging.volumes import Volume
from mskray.serving.meters import exported
from mskray.serving.problems import InvalidValue, Problem, invalid, too_busy, unavailable
from mskray.serving.schemas.models import Models, Rollout, Served
from mskray.serving.schemas.pairs import PairVote
from mskray.serving.schemas.spines import Reached, SpineReading
from mskray.serving.schemas.studies import DecodedView, StudyVote

_SAID = ("ensemble", "pairs", "spines", "rollout")
"""What one deployment alone says of all."""


@dataclass(frozen=True)
class Handles:
    """Of what is served; None for what is not."""

    studies: DeploymentHandle | None = None
    pairs: DeploymentHandle | None = None
    spines: DeploymentHandle | None = None


class Remote:
    """A `Backend` in Ray Serve."""

    def __init__(self, handles: Handles) -> None:
        known: dict[Served, DeploymentHandle | None] = {
            "studies": handles.studies,
            "pairs": handles.pairs,
            "spines": handles.spines,
        }
        self._handles = {name: handle for name, handle in known.items() if handle is not None}
        self.served = tuple(self._handles)

    async def models(self) -> Models:
        each = await asyncio.gather(*(answer_of(handle.models.remote()) for handle in self._handles.values()))
        first, *others = each
        joined: Models = first
        for found in others:
            given = {name: value for name in _SAID if (value := getattr(found, name))}
            members = [*joined.members, *found.members]
            joined = joined.model_copy(update={**given, "members": members, "served": [*joined.served, *found.served]})
        return joined

    async def vote(self, views: list[DecodedView], explain: Sequence[str] = ()) -> StudyVote:
        found: StudyVote = await answer_of(self._handles["studies"].vote.remote(views, list(explain)))
        return found

    async def pair(self, before: DecodedView, after: DecodedView) -> PairVote:
        found: PairVote = await answer_of(self._handles["pairs"].vote.remote(before, after))
        return found

    async def spine(self, volume: Volume, copies: int | None) -> AsyncIterator[Reached | SpineReading]:
        said: Any = self._handles["spines"].options(stream=True).read.remote(volume, copies)
        ends = object()
        while (each := await answer_of(anext(said, ends))) is not ends:
            yield each

    async def roll_out(self, ensemble: str) -> Rollout:
        try:
            begun: Rollout = await answer_of(self._handles["studies"].roll_out.remote(ensemble))
        except UserError as error:
            told = user_error_in(error) or error
            raise invalid(InvalidValue(where="body.ensemble", what=str(told))) from None
        return begun

    async def metrics(self) -> bytes:
        return await asyncio.to_thread(lambda: exported([_exporter(node) for node in ray.nodes() if node["Alive"]]))


async def answer_of(response: Any) -> Any:
    """Await a deployment's answer. Raises Problem where it is gone or full, or says so: the client may ask again."""
    try:
        return await response
    except BackPressureError:
        raise too_busy("too many wait for the model: ask again") from None
    except RayTaskError as error:
        raise (error.cause if isinstance(error.cause, Problem) else error) from None
    except (DeploymentUnavailableError, RayActorError):
        raise unavailable("it is starting again: ask again") from None


def _exporter(node: dict[str, Any]) -> str:
    address = node["NodeManagerAddress"]
    return f"[{address}]:{node['MetricsExportPort']}" if ":" in address else f"{address}:{node['MetricsExportPort']}"
