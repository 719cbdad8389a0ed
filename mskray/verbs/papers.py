"""The papers' tables and ours: `mskray report --against papers` prints them, `mskray reproduce TABLE` fills one.

Results are a folder: a bundle or ensemble for each row's model, with its evaluations inside. What is there already is
not made again, so an interrupted `reproduce` goes on where it stopped.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mskray import ensemble
from mskray.cohorts import open_cohort
from mskray.config import apply_overrides, read_yaml
from mskray.errors import UserError
from mskray.evaluation.papers import SOURCES, TABLES, Row, Table
from mskray.evaluation.places import EVALUATION, METRICS, evaluation_folder
from mskray.progress import Progress, Report, silent
from mskray.storage import Location, check_access, locate
from mskray.verbs.ensemble import make_ensemble
from mskray.verbs.evaluate import evaluate_model
from mskray.verbs.tables import table as draw
from mskray.verbs.train import parse_job, train

NOT_RUN = "not run"


def find_tables(name: str | None) -> tuple[Table, ...]:
    """Return the table of that name, or all. Raises UserError that names the known ones."""
    if name is None:
        return tuple(TABLES.values())
    if name not in TABLES:
        raise UserError(f"unknown table {name!r}: known are {', '.join(TABLES)}")
    return (TABLES[name],)


def against_papers(tables: Sequence[Table], results: str | None) -> str:
    """Return the tables as text: the paper's figures and below them ours, with the split they were measured on.

    Args:
        results: None where nothing was run.
    """
    place = None if results is None else locate(results)
    if place is not None:
        check_access(place)
    return "\n\n".join(_compare(each, place) for each in tables)


def reproduce(
    name: str, cohort: str, results: str, configs: str, overrides: Sequence[str] = (), report: Report = silent
) -> str:
    """Train and evaluate every model of a table that is not there yet; return the table beside the paper's.

    Args:
        cohort: URI of a MURA cohort; its images must not be smaller than the largest input of the table's presets.
        results: folder of the bundles, each named after its preset.
        configs: folder of the presets (jobs/configs).
        overrides: `section.key=value` words for every preset.
    Raises:
        UserError: an unknown table, a missing preset, or as `train` and `evaluate_model`; what a preset cannot learn
            from this cohort before the first is trained.
    """
    (chosen,) = find_tables(name)
    place = locate(results)
    opened = open_cohort(cohort)
    models = list(dict.fromkeys(row.presets for row in chosen.rows if row.presets))
    jobs = {preset: _job(preset, configs, cohort, place, overrides) for preset in _with_sources(models)}
    parsed = {preset: parse_job(job, f"{configs}/{preset}.yaml") for preset, job in jobs.items()}
    for preset, (job, chosen_family, config) in parsed.items():
        try:
            task = chosen_family.task(opened, job.task)
            if preset not in SOURCES:  # the others read a bundle that may not be trained yet
                chosen_family.check(opened, config, task)
        except UserError as error:
            raise UserError(f"{preset}: {error}") from None
    for number, (preset, whole) in enumerate(parsed.items(), start=1):
        report(Progress(f"{number} of {len(parsed)}: {preset}"))
        train(*whole, report=report)
    for presets in models:
        model = place.join("+".join(presets))
        if len(presets) > 1 and not model.join(ensemble.DESCRIPTION).is_file():
            make_ensemble([str(place.join(preset)) for preset in presets], str(model), report=report)
        if not evaluation_folder(model, opened, "test").join(METRICS).is_file():
            gpu = any(parsed[preset][0].resources.gpu for preset in presets)
            evaluate_model(str(model), cohort, "test", gpu=gpu, report=report)
    return against_papers([chosen], results)


def _with_sources(models: Sequence[tuple[str, ...]]) -> list[str]:
    """Every preset that has to be trained, those that others learn from first."""
    wanted = list(dict.fromkeys(preset for presets in models for preset in presets))
    sources = [source for preset in wanted for source in SOURCES.get(preset, {}).values()]
    return list(dict.fromkeys([*sources, *wanted]))


def _job(preset: str, configs: str, cohort: str, results: Location, overrides: Sequence[str]) -> dict[str, Any]:
    words = [f"cohort={cohort}", f"out={results.join(preset)}"]
    words += [f"{key}={results.join(source)}" for key, source in SOURCES.get(preset, {}).items()]
    return apply_overrides(read_yaml(Path(configs) / f"{preset}.yaml"), [*words, *overrides])


def _compare(chosen: Table, results: Location | None) -> str:
    rows = []
    for row in chosen.rows:
        rows.append(
            [row.name, f"paper, {row.on or chosen.on}", *(_plain(row.figures.get(name)) for name in chosen.metrics)]
        )
        rows += [["", *cells] for cells in _ours(chosen, row, results)]
    text = draw(["row", f"whose, {chosen.level} level", *chosen.metrics], rows)
    return "\n".join([chosen.title, *([chosen.note] if chosen.note else []), "", text])


def _ours(chosen: Table, row: Row, results: Location | None) -> Iterator[list[str]]:
    """Cells of each evaluation of a row's model: what it was measured on, and its figures."""
    empty = [""] * len(chosen.metrics)
    if not row.presets:
        yield ["the paper does not describe it", *empty]
        return
    found = False
    for place in _metrics(results.join(row.model, EVALUATION)) if results else ():
        cells = _measured(place, chosen, row)
        if cells is not None:
            found = True
            yield cells
    if not found:
        yield [f"{NOT_RUN} ({row.model})", *empty]


def _metrics(folder: Location) -> Iterator[Location]:
    for entry in folder.walk() if folder.is_dir() else ():
        if entry.path.rpartition("/")[2] == METRICS:
            yield folder.join(entry.path)


def _measured(place: Location, chosen: Table, row: Row) -> list[str] | None:
    """Cells of one `metrics.json`, None where it lacks what the row is about: older ones and others' do."""
    content = place.read_json()
    try:
        group = content["levels"][chosen.level]
        if row.part:
            group = group["model_parts"][row.part]
        elif row.body_part:
            group = group["body_parts"][row.body_part]
        else:
            group = group["overall"]
        cohort, figures = content["cohort"], group["figures"]
        where = f"ours, {content['split']} of {cohort['source']} {cohort['content_hash'][:8]}, n = {group['n']:,}"
        return [where, *(_interval(figures.get(metric)) for metric in chosen.metrics)]
    except (KeyError, TypeError, AttributeError, ValueError):
        return None


def _plain(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _interval(figure: dict[str, Any] | None) -> str:
    if not figure or figure["value"] is None:
        return "–"
    spread = "" if figure["low"] is None else f" ({figure['low']:.3f} to {figure['high']:.3f})"
    return f"{figure['value']:.3f}{spread}"
