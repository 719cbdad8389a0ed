"""What answers behind the routes: models in Ray Serve, or in this process."""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from mskray.imaging.volumes import Volume
from mskray.serving.schemas.models import Models, Rollout, Served
from mskray.serving.schemas.pairs import PairVote
from mskray.serving.schemas.spines import Reached, SpineReading
from mskray.serving.schemas.studies import DecodedView, StudyVote


class Backend(Protocol):
    """Models by what they answer. Each method raises Problem: too busy, starting again."""

    served: tuple[Served, ...]
    """What can be asked of it."""

    async def models(self) -> Models: ...

    async def vote(self, views: list[DecodedView], explain: Sequence[str] = ()) -> StudyVote:
        """Vote on a study; `explain` names methods of `mskray.explain.methods.METHODS`."""
        ...

    async def pair(self, before: DecodedView, after: DecodedView) -> PairVote: ...

    def spine(self, volume: Volume, copies: int | None) -> AsyncIterator[Reached | SpineReading]:
        """Read a sagittal volume: how far it is, again and again, then the reading.

        Args:
            volume: in the order of `to_sagittal`.
            copies: augmented ones that hotspots are averaged over, 1 for plain saliency; None for no hotspots.
        """
        ...

    async def roll_out(self, ensemble: str) -> Rollout:
        """Load another ensemble of studies in every replica, then answer by it; `models` tells how far it is, by the
        `id` of what this returns."""
        ...

    async def metrics(self) -> bytes: ...
