"""`mskray sources [NAME] [--json]`: what there is to ingest, and every option of it."""

import json
from dataclasses import asdict

from mskray.cohorts.sources import get_source, source_names
from mskray.config import describe
from mskray.verbs.tables import settings_table, table


def sources_table(as_json: bool = False) -> str:
    """Return every source with the kind of cohort that it makes."""
    known = [get_source(name) for name in source_names()]
    if as_json:
        return json.dumps(
            [{"name": each.name, "makes": each.kind, "summary": each.summary} for each in known], indent=2
        )
    return table(["source", "makes", "reads"], [[each.name, each.kind, each.summary] for each in known])


def source_table(name: str, as_json: bool = False) -> str:
    """Return every option of a source. Raises UserError for an unknown one."""
    chosen = get_source(name)
    options = list(describe(chosen.Options))
    if as_json:
        about = {"name": chosen.name, "makes": chosen.kind, "summary": chosen.summary}
        return json.dumps({**about, "options": [asdict(each) for each in options]}, indent=2)
    return f"{chosen.summary}\n\n{settings_table(options)}" if options else f"{chosen.summary}\n\nno options"
