"""`mskray families [NAME] [--json]`: what there is to train, every knob of it, and what of them to search."""

import json
from dataclasses import asdict

from mskray.config import describe
from mskray.families import families, family
from mskray.space import Parameter, Space, to_data
from mskray.verbs.tables import settings_table, table
from mskray.verbs.train import job_model

_OWN = "(default)"


def families_table(as_json: bool = False) -> str:
    """Return every family with what it reads and learns."""
    known = families()
    if as_json:
        rows = [{"name": name, "reads": each.kinds, "summary": each.summary} for name, each in known.items()]
        return json.dumps(rows, indent=2)
    lines = [[name, ", ".join(each.kinds), each.summary] for name, each in known.items()]
    return table(["family", "reads", "learns"], lines)


def family_table(name: str, as_json: bool = False) -> str:
    """Return a family's config keys, job keys included, and its search spaces. Raises UserError for an unknown one."""
    chosen = family(name)
    settings = list(describe(job_model(chosen)))
    if as_json:
        return json.dumps(
            {
                "name": chosen.name,
                "summary": chosen.summary,
                "settings": [asdict(setting) for setting in settings],
                "search_space": to_data(chosen.search_space()),
                "spaces": {name: to_data(space) for name, space in chosen.spaces().items()},
            },
            indent=2,
        )
    spaces: dict[str, Space] = {_OWN: chosen.search_space(), **chosen.spaces()}
    rows = [_row(name, key, each) for name, space in spaces.items() for key, each in space.items()]
    return f"{settings_table(settings)}\n\n{table(['space', 'parameter', 'kind', 'values', 'when'], rows)}"


def _row(space: str, key: str, parameter: Parameter) -> list[str]:
    data = parameter.to_data()
    words = [json.dumps(value) for value in data[parameter.kind]]
    when = [f"{parent} = {' | '.join(json.dumps(value) for value in each)}" for parent, each in parameter.when.items()]
    return [space, key, parameter.kind, (", " if parameter.finite else " to ").join(words), "; ".join(when)]
