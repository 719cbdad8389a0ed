"""The import path that Ray Serve's own commands read.

    export MSKRAY_ENSEMBLE=s3://models/knees MSKRAY_SERVE_TOKEN=$(openssl rand -hex 32)
    serve run serve.app:app
    serve deploy serve/config.yaml

`serve.app` cannot know which addresses the cluster listens on, so it always asks for a token.
"""

import os

from ray import serve

from mskray.config import Section, setting
from mskray.errors import UserError
from mskray.serving.application import build
from mskray.serving.settings import Limits
from mskray.serving.tokens import TOKEN_VARIABLE, access

ENSEMBLE_VARIABLE = "MSKRAY_ENSEMBLE"


class Arguments(Section):
    """`args` of a Serve config, or `key=value` words of `serve run`."""

    ensemble: str = setting("", f"URI of an ensemble or bundle; {ENSEMBLE_VARIABLE} if empty")
    tokens: str = setting("", f"URI of a file of tokens (`mskray tokens`); beside it {TOKEN_VARIABLE} counts")
    audit: str = setting("", "URI of the audit's folder; empty for no audit")
    limits: Limits = Limits()


def app(arguments: Arguments) -> serve.Application:
    """Build the application. Raises UserError without an ensemble or without a token."""
    ensemble = arguments.ensemble or os.environ.get(ENSEMBLE_VARIABLE, "")
    if not ensemble:
        raise UserError(f"no ensemble to serve: set {ENSEMBLE_VARIABLE}, or args.ensemble in the Serve config")
    known = access(arguments.tokens or None)
    if known.open:
        raise UserError(
            f"give args.tokens, or set {TOKEN_VARIABLE} to a secret (`openssl rand -hex 32`): every client has to "
            "send one"
        )
    return build(ensemble, arguments.limits, known, arguments.audit or None)
