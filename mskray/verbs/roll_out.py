"""`mskray serve ENSEMBLE --roll-out URL`: the server that runs answers studies by another ensemble, without a pause."""

import os
import time

from mskray.client import Client
from mskray.errors import UserError
from mskray.progress import Progress, Report, silent
from mskray.storage import locate
from mskray.verbs.predict_remote import TOKEN_VARIABLE

_LONGEST_S = 300.0


def roll_out(
    ensemble: str,
    url: str,
    *,
    trust: str | None = None,
    longest_s: float = _LONGEST_S,
    report: Report = silent,
) -> tuple[str, str]:
    """Return the names and hashes of the ensemble before and now. The token, of scope admin, is MSKRAY_TOKEN.

    Args:
        url: of the server.
        trust: path of certificates to trust beside the usual ones; None for these.
    Raises:
        UserError: there is no server, it refuses the ensemble, or its replicas do not have it in time.
    """
    uri = str(locate(ensemble))
    with Client(url, os.environ.get(TOKEN_VARIABLE) or None, verify=trust or True) as client:
        found = client.models().of_studies
        before = f"{found.name} {found.hash[:12]}"
        begun = client.roll_out(uri).rollout
        report(Progress("loading the ensemble in every replica"))
        deadline = time.monotonic() + longest_s
        while begun is not None and time.monotonic() < deadline:
            models = client.models()
            state = models.rollout
            # Any replica may answer, and one that has not looked yet tells of the change before.
            if state is not None and state.id == begun.id:
                if state.state == "refused":
                    raise UserError(f"{url} refuses {uri}: {state.reason}")
                if state.state == "served" and models.of_studies.hash == begun.hash:
                    return before, f"{models.of_studies.name} {models.of_studies.hash[:12]}"
            time.sleep(0.2)
    raise UserError(f"{url} does not answer by {uri} within {longest_s:g} s: its log says why")
