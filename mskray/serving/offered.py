"""Whether what is offered can be served: tried before Serve starts, where a mistake is one line."""

from mskray.bundles import read_description
from mskray.ensemble import describe, load
from mskray.errors import UserError
from mskray.families.loading import load_predictor
from mskray.serving.settings import Offer
from mskray.storage import locate

_KINDS = {"ensemble": "radiograph", "pairs": "pair", "spines": "disc", "vertebrae": "spine"}
"""What each reads, by its field of `Offer`."""
_WHERE = {
    "radiograph": "give it as the ensemble",
    "pair": "give it with --pairs",
    "disc": "give it with --spines, and a detector with --vertebrae",
    "spine": "give it with --vertebrae, beside --spines",
}


def uris(offer: Offer) -> dict[str, str]:
    """Return the models that are offered, by their field."""
    fields = {name: str(getattr(offer, name)) for name in _KINDS}
    return {name: uri for name, uri in fields.items() if uri}


def check_kinds(offer: Offer) -> None:
    """Raise UserError for what is neither ensemble nor bundle, and for one that reads other things than it is for."""
    for name, uri in uris(offer).items():
        bundle = uri if name == "vertebrae" else describe(uri).members[0].uri  # members are all of one kind
        kind = read_description(bundle).kind
        if kind != _KINDS[name]:
            where = _WHERE.get(kind, "it cannot be served")
            raise UserError(f"{locate(uri)} reads {kind}s, not {_KINDS[name]}s: {where}")


def check_loads(offer: Offer) -> None:
    """Raise UserError where a model cannot be loaded."""
    for uri in filter(None, (offer.ensemble, offer.pairs)):
        load(uri)
    for uri in filter(None, (offer.spines, offer.vertebrae)):
        load_predictor(uri)
