"""What the routes share: models, limits, who may ask, what is kept."""

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from mskray.serving.accounts import asked
from mskray.serving.backend import Backend
from mskray.serving.gate import Gate
from mskray.serving.idempotency import Once
from mskray.serving.problems import Problem
from mskray.serving.schemas.models import Served
from mskray.serving.settings import Limits
from mskray.serving.store import Store
from mskray.serving.tokens import Door, Scope
from mskray.storage import Location

_BEARER = HTTPBearer(auto_error=False, description="A token of the server, where it has any.")


@dataclass(frozen=True)
class Desk:
    """Made once for an application.

    Args:
        store: None where nothing is kept: no links, no jobs, no keys.
        feedback: where corrections are kept; None where they are not.
    """

    backend: Backend
    limits: Limits
    gate: Gate
    door: Door
    store: Store | None
    once: Once
    feedback: Location | None = None

    def needs(self, scope: Scope) -> Any:
        """Return what a route depends on to let in only whose token allows it."""

        async def check(
            request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)]
        ) -> None:
            asked(request).who = await self.door.admit(given.credentials if given else None, scope)

        return Depends(check)

    def check(self, what: Served) -> None:
        """Raise Problem where this server does not answer such things."""
        if what not in self.backend.served:
            told = " and ".join(self.backend.served)
            raise Problem("not-served", f"this server answers {told}; GET /v1/models tells")

    @property
    def kept(self) -> Store:
        """The store. Raises Problem where nothing is kept."""
        if self.store is None:
            raise Problem("no-store", "start the server with --store URI, or args.store in its config")
        return self.store
