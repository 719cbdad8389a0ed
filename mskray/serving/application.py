"""The Ray Serve application: `Ingress` speaks HTTP and decodes; what answers stands behind it (`deployments`).

    serve run serve.app:app ensemble=s3://models/knees

Numbers of replicas, their scaling, CPUs and GPUs can be set in a Serve config (serve/config.yaml): a replica uses what
it was given.
"""

from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from ray import serve

from mskray.serving.api import build_api
from mskray.serving.deployments import Member, Members, Pairs, Spines
from mskray.serving.remote import Handles, Remote
from mskray.serving.settings import Limits, Offer
from mskray.serving.tokens import Access

_WAITING_STUDIES = 64
"""Studies that may wait before the members, to be joined in batches, and as many again at each caller."""
_WAITING_SPINES = 4
"""Volumes that wait before their reader, one at each replica at work; whoever sends more asks again."""
_SPINE_REQUESTS = 16
"""Requests of one reader of spines: more than volumes may be there, so that its models are told beside them."""
_SPARE_REQUESTS = 16
"""Requests of one ingress beside studies: health, models."""


@dataclass(frozen=True)
class Rules:
    """How an ingress answers: see `build_api`."""

    limits: Limits
    access: Access
    audit: str | None = None
    store: str | None = None
    feedback: str | None = None


class Ingress:
    """HTTP: reads, checks and decodes what comes in."""

    def __init__(self, handles: Handles, rules: Rules) -> None:
        self._handles, self._rules = handles, rules

    def __serve_build_asgi_app__(self) -> FastAPI:
        rules = self._rules
        return build_api(Remote(self._handles), rules.limits, rules.access, rules.audit, rules.store, rules.feedback)


def build(offer: Offer, rules: Rules, cpus: float = 1.0, threads: int = 1) -> serve.Application:
    """Return the application, not yet running.

    Args:
        offer: what is served; URIs that the replicas can read.
        cpus: CPUs reserved for the members together; pairs and spines take as many each.
        threads: of each deployment. Rarely two are busy, so that each may use as many as all together; members apart,
            which are asked at the same time, share them.
    """
    limits = rules.limits
    handles = Handles(
        studies=_members(offer, rules, cpus, threads) if offer.ensemble else None,
        pairs=_deployed(Pairs, "Pairs", cpus).bind(offer.pairs, threads) if offer.pairs else None,
        spines=(
            _deployed(Spines, "Spines", cpus, at_once=_SPINE_REQUESTS, waiting=_SPINE_REQUESTS).bind(
                offer.spines, offer.vertebrae, _WAITING_SPINES, threads
            )
            if offer.spines
            else None
        ),
    )
    # Without a reserved CPU, so that a small cluster has room for the members. The gate of the API refuses studies
    # before Serve does: its answer is a problem detail, Serve's is not. All that arrive in one moment are queued
    # to Serve, though there is room for them: its queue must hold as many as may be open.
    most = limits.max_open + limits.max_waiting + _SPARE_REQUESTS
    ingress = serve.deployment(
        name="Ingress",
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=most,
        max_queued_requests=most,
    )(serve.ingress()(Ingress))
    return ingress.bind(handles, rules)


def _members(offer: Offer, rules: Rules, cpus: float, threads: int) -> Any:
    """Fused in one replica: in deployments of their own they cost a third of the throughput of small models."""
    count = offer.apart
    share = max(1, threads // count) if count else 0
    apart = [_deployed(Member, f"Member-{place + 1}", cpus / count).bind(share) for place in range(count)]
    return _deployed(Members, "Members", 0.0 if apart else cpus).bind(offer.ensemble, apart, rules.store, threads)


def _deployed(
    kind: type, name: str, cpus: float, at_once: int = _WAITING_STUDIES, waiting: int = _WAITING_STUDIES
) -> Any:
    return serve.deployment(
        name=name, ray_actor_options={"num_cpus": cpus}, max_ongoing_requests=at_once, max_queued_requests=waiting
    )(kind)
