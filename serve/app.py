"""The import path that Ray Serve's own commands read.

    export MSKRAY_ENSEMBLE=s3://models/knees MSKRAY_SERVE_TOKEN=$(openssl rand -hex 32)
    serve run serve.app:app
    serve deploy serve/config.yaml

`serve.app` cannot know which addresses the cluster listens on, so it always asks for a token.
"""

import os

from ray import serve

from mskray.config import setting
from mskray.errors import UserError
from mskray.serving.application import Rules, build
from mskray.serving.settings import Limits, Offer
from mskray.serving.tokens import TOKEN_VARIABLE, access
from mskray.storage import locate

ENSEMBLE_VARIABLE = "MSKRAY_ENSEMBLE"


class Arguments(Offer):
    """`args` of a Serve config, or `key=value` words of `serve run`; of nothing that is offered MSKRAY_ENSEMBLE is."""

    tokens: str = setting("", f"URI of a file of tokens (`mskray tokens`); beside it {TOKEN_VARIABLE} counts")
    audit: str = setting("", "URI of the audit's folder; empty for no audit")
    store: str = setting("", "URI of a folder for links, jobs and feedback; empty for none of these")
    limits: Limits = Limits()


def app(arguments: Arguments) -> serve.Application:
    """Build the application. Raises UserError where nothing is offered, and without a token."""
    offer = Offer(**{name: getattr(arguments, name) for name in Offer.model_fields})
    if not (offer.ensemble or offer.pairs or offer.spines):
        offer = offer.model_copy(update={"ensemble": os.environ.get(ENSEMBLE_VARIABLE, "")})
        if not offer.ensemble:
            raise UserError(f"no ensemble to serve: set {ENSEMBLE_VARIABLE}, or args.ensemble in the Serve config")
    offer.check()
    known = access(arguments.tokens or None)
    if known.open:
        raise UserError(
            f"give args.tokens, or set {TOKEN_VARIABLE} to a secret (`openssl rand -hex 32`): every client has to "
            "send one"
        )
    feedback = str(locate(arguments.store).join("feedback")) if arguments.store else None
    rules = Rules(arguments.limits, known, arguments.audit or None, arguments.store or None, feedback)
    return build(offer, rules)
