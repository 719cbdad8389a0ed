"""One list of everything that is served, from what each part says of itself."""

from mskray.serving.schemas.models import Described, MemberInfo, Models, Rollout, Served, SpineModelInfo


def catalogue(
    studies: Described | None = None,
    pairs: Described | None = None,
    spines: tuple[SpineModelInfo, list[MemberInfo]] | None = None,
    rollout: Rollout | None = None,
) -> Models:
    """Return what `GET /v1/models` answers; None for what this server does not answer."""
    there: dict[Served, bool] = {
        "studies": studies is not None,
        "pairs": pairs is not None,
        "spines": spines is not None,
    }
    return Models(
        served=[name for name, known in there.items() if known],
        ensemble=studies.ensemble if studies else None,
        pairs=pairs.ensemble if pairs else None,
        spines=spines[0] if spines else None,
        members=[
            *(studies.members if studies else ()),
            *(pairs.members if pairs else ()),
            *(spines[1] if spines else ()),
        ],
        rollout=rollout,
    )
