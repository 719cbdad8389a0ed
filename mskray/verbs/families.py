"""`mskray families [NAME] [--json]`: what there is to train, and every knob of it."""

import json
from dataclasses import asdict

from mskray.config import describe
from mskray.families import families, family
from mskray.verbs.tables import settings_table, table
from mskray.verbs.train import job_model


def families_table(as_json: bool = False) -> str:
    """Return every family with what it reads and learns."""
    known = families()
    if as_json:
        rows = [{"name": name, "reads": each.kinds, "summary": each.summary} for name, each in known.items()]
        return json.dumps(rows, indent=2)
    lines = [[name, ", ".join(each.kinds), each.summary] for name, each in known.items()]
    return table(["family", "reads", "learns"], lines)


def family_table(name: str, as_json: bool = False) -> str:
    """Return every config key of a family, job keys included. Raises UserError for an unknown family."""
    chosen = family(name)
    settings = list(describe(job_model(chosen)))
    if as_json:
        return json.dumps(
            {
                "name": chosen.name,
                "summary": chosen.summary,
                "settings": [asdict(setting) for setting in settings],
                "search_space": chosen.search_space(),
            },
            indent=2,
        )
    return settings_table(settings)
