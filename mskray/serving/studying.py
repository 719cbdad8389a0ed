"""From a study's files to its answer: what the route of studies and a batch's job have in common."""

import asyncio
from collections.abc import Sequence

from mskray.imaging.overlay import png
from mskray.serving.backend import Backend
from mskray.serving.schemas.common import UnreadableView
from mskray.serving.schemas.studies import DecodedView, Evidence, Overlay, StudyAnswer, StudyVote, ViewResult
from mskray.serving.settings import Limits
from mskray.serving.store import Store
from mskray.serving.uploads import UploadedStudy, check_readable, decode_study


async def answer_study(
    backend: Backend,
    limits: Limits,
    study: UploadedStudy,
    request_id: str | None,
    *,
    partial: bool = False,
    explain: Sequence[str] = (),
    keep: "Keeping | None" = None,
) -> StudyAnswer:
    """Decode, vote, put into words.

    Args:
        keep: where overlays are kept; None puts them into the answer as arrays.
    Raises:
        Problem: views that cannot be read, a model that is busy or starting.
    """
    views, unreadable = await asyncio.to_thread(decode_study, study, limits)
    check_readable(len(views), unreadable, partial)
    vote = await backend.vote(views, explain)
    overlays = await asyncio.to_thread(_overlays, vote, keep)
    return _answer(views, unreadable, vote, overlays, request_id)


class Keeping:
    """Whose store an answer's pictures go to."""

    def __init__(self, store: Store, who: str) -> None:
        self._store, self._who = store, who

    def __call__(self, pictures: dict[str, bytes]) -> dict[str, str]:
        return self._store.keep(self._who, pictures)


def _overlays(vote: StudyVote, keep: Keeping | None) -> list[list[Overlay]]:
    named = [
        [(f"{view}-{place}-{each.method}.png", each) for place, each in enumerate(found)]
        for view, found in enumerate(vote.evidence)
    ]
    flat = {name: png(each.pixels) for view in named for name, each in view} if keep else {}
    links = keep(flat) if keep and flat else {}
    return [[_overlay(each, links.get(name)) for name, each in view] for view in named]


def _overlay(each: Evidence, href: str | None) -> Overlay:
    x, y, width, height = (round(side, 2) for side in each.box)
    array = None if href else each.pixels.tolist()
    return Overlay(
        member=each.member,
        method=each.method,
        label=each.label,
        x=x,
        y=y,
        width=width,
        height=height,
        href=href,
        array=array,
    )


def _answer(
    views: Sequence[DecodedView],
    unreadable: list[UnreadableView],
    vote: StudyVote,
    overlays: list[list[Overlay]],
    request_id: str | None,
) -> StudyAnswer:
    return StudyAnswer(
        request_id=request_id,
        study=vote.study,
        views=[
            ViewResult(
                index=view.index,
                name=view.name,
                format=view.format,
                rows=view.pixels.shape[0],
                columns=view.pixels.shape[1],
                body_part=view.body_part or None,
                probabilities=vote.views[place],
                members=vote.members[place],
                parts=vote.parts[place],
                boxes=vote.boxes[place],
                overlays=overlays[place] if overlays else [],
            )
            for place, view in enumerate(views)
        ],
        unreadable=unreadable,
        warnings=vote.warnings,
        model=vote.model,
    )
