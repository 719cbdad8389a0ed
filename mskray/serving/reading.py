"""From a spine's files to its answer, told on the way how far it is."""

import asyncio
from typing import Any

from mskray.imaging.overlay import png
from mskray.serving.backend import Backend
from mskray.serving.jobs import Order, Told, Work
from mskray.serving.problems import Problem
from mskray.serving.schemas.spines import DiscResult, Reached, SpineAnswer, SpineReading
from mskray.serving.settings import Limits
from mskray.serving.store import Store
from mskray.serving.volumes import decode_volume


def spine_work(backend: Backend, limits: Limits, store: Store | None) -> Work:
    """Return what reads a spine; its hotspots go to the store."""

    async def work(order: Order, told: Told) -> dict[str, Any]:
        volume = await asyncio.to_thread(decode_volume, order.files, limits)
        copies = int(order.options["copies"]) if "copies" in order.options else None
        async for each in backend.spine(volume, copies):
            if isinstance(each, Reached):
                told(each.done, each.total, each.what)
            else:
                discs = await asyncio.to_thread(_with_links, each, store, order.who)
                answer = SpineAnswer(
                    request_id=order.request,
                    volume=each.volume,
                    bodies=each.bodies,
                    discs=discs,
                    warnings=each.warnings,
                    model=each.model,
                )
                return {"spine": answer}
        raise Problem("unavailable", "the reading ended without an answer: ask again")

    return work


def _with_links(reading: SpineReading, store: Store | None, who: str) -> list[DiscResult]:
    """The discs, with links to their hotspots."""
    if store is None or not reading.hotspots:
        return reading.discs
    pictures: dict[str, bytes] = {}
    names: dict[tuple[str, str], list[str]] = {}
    for found in reading.hotspots:
        stem = f"{found.level.replace('/', '-')}-{found.task}"
        names[found.level, found.task] = [f"{stem}-{place}.png" for place in range(len(found.pixels))]
        pictures |= {name: png(each) for name, each in zip(names[found.level, found.task], found.pixels, strict=True)}
    links = store.keep(who, pictures)
    discs = []
    for disc in reading.discs:
        grades = {
            task: grade.model_copy(update={"hotspots": [links[name] for name in names[disc.level, task]]})
            if (disc.level, task) in names
            else grade
            for task, grade in disc.grades.items()
        }
        discs.append(disc.model_copy(update={"grades": grades}))
    return discs
