"""A reader's correction into the store: the picture without its header, what is right, who said so, when and why.

What is stored names nobody: pixels as a lossless PNG, the patient as a keyed hash whose key is the store's own. Only
the reader's own words (`reason`) could say more; whoever asks for them tells readers to name no patient.

`mskray ingest feedback STORE/feedback --out URI` makes a cohort of it (`mskray.cohorts.sources.feedback`).
"""

import os
import secrets
import uuid
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mskray.imaging.corrected import CorrectedBox
from mskray.imaging.decode import DecodedImage, DecodeError, DecodeLimits, decode
from mskray.imaging.deidentify import KEY_VARIABLE, Pseudonymiser
from mskray.imaging.overlay import png
from mskray.serving.problems import InvalidValue, Problem, invalid
from mskray.serving.schemas.common import UnreadableView
from mskray.serving.schemas.feedback import Feedback
from mskray.serving.schemas.models import EnsembleInfo, Models
from mskray.serving.settings import Limits
from mskray.serving.uploads import stated_part
from mskray.storage import Location

LONGEST_REASON = 2000
MOST_BOXES = 100
_KEY_BYTES = 32
_ROUNDING = 1e-3
"""px by which a box may leave the picture: a page computes edges from shares of its own size."""


class Correction(BaseModel):
    """What a reader says is right."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)

    task: str = Field(min_length=1, max_length=64, description="The question.", examples=["abnormality"])
    label: str | None = Field(
        default=None, min_length=1, max_length=200, description="The right class; null to give boxes alone."
    )
    boxes: tuple[CorrectedBox, ...] = Field(
        default=(), max_length=MOST_BOXES, description="Where the finding is, in pixels of the decoded view."
    )
    reason: str = Field(
        min_length=1,
        max_length=LONGEST_REASON,
        description="In the reader's words, which are stored as they are: they must name no patient.",
        examples=["the line is a vessel, no fracture"],
    )
    said: str | None = Field(default=None, min_length=1, max_length=200, description="The class that the model called.")
    model: str = Field(pattern=r"^[0-9a-f]{64}$", description="Hash of the model that is corrected, as it answered.")

    @model_validator(mode="after")
    def _says_something(self) -> "Correction":
        if self.label is None and not self.boxes:
            raise ValueError("give a label, a box or both")
        return self


def keep(folder: Location, image: bytes, correction: Correction, who: str, known: Models, limits: Limits) -> Feedback:
    """Store a correction; nothing that was stored before is changed.

    Args:
        folder: of the store's feedback.
        image: the file as it was sent to be predicted.
        who: name of the token; "" where the server has none.
        known: what is served: the corrected task and its classes must be there. A model that is served no longer may
            be corrected still.
    Raises:
        Problem: the file cannot be read, or the correction does not fit it or what is served.
        UserError: the store cannot be written.
    """
    # Here and not above: cohorts bring Ray Data, which would take the ingress a second to load.
    from mskray.cohorts.corrections import StoredCorrection, correction_path, picture_path, pixel_digest

    ensemble = _answering(correction, known)
    decoded = _decoded(image, limits)
    _check_inside(correction, *decoded.pixels.shape)
    digest = pixel_digest(decoded.pixels)
    keys = Pseudonymiser(_key(folder))
    # A pixel digest is as good as a name where the header has none: pictures without one are a patient each.
    patient = keys.patient((decoded.patient_id or "").strip() or f"image {digest}")
    now = datetime.now(UTC)
    stored = StoredCorrection(
        id=uuid.uuid4().hex,
        time=now,
        who=who,
        image=digest,
        patient=patient,
        body_part=stated_part(decoded) or None,
        classes=tuple(ensemble.classes),
        **{name: getattr(correction, name) for name in ("task", "label", "boxes", "reason", "said", "model")},
    )
    # The picture first: a correction whose picture is missing would go to quarantine.
    picture = folder.join(picture_path(digest))
    if not picture.is_file():
        picture.write_bytes(png(decoded.pixels))
    folder.join(correction_path(now, stored.id)).write_json(stored.model_dump(mode="json"))
    return Feedback(
        id=stored.id,
        time=now.isoformat(timespec="seconds"),
        who=who,
        image=digest,
        patient=patient,
        body_part=stored.body_part,
        task=stored.task,
        label=stored.label,
        boxes=list(correction.boxes),
        reason=stored.reason,
        said=stored.said,
        model=stored.model,
    )


def _answering(correction: Correction, known: Models) -> EnsembleInfo:
    """What answers the corrected question."""
    served = known.ensemble
    if served is None or correction.task != served.task:
        what = f"the server answers {served.task}" if served else "the server answers no studies"
        raise _refused([("task", f"{what}, not {correction.task}")])
    wrong = [
        (name, f"{value} is none of {', '.join(served.classes)}")
        for name, value in (("label", correction.label), ("said", correction.said))
        if value is not None and value not in served.classes
    ]
    if wrong:
        raise _refused(wrong)
    return served


def _decoded(image: bytes, limits: Limits) -> DecodedImage:
    allowed = DecodeLimits(
        max_bytes=limits.max_body, max_pixels=min(limits.max_pixels, DecodeLimits.max_pixels), max_frames=1
    )
    try:
        decoded = decode(image, allowed)
        if decoded.metadata.get("burned_in_annotation") == "YES":
            raise DecodeError("BurnedInAnnotation is YES: text, perhaps a name, is drawn into it, and would be stored")
    except DecodeError as error:
        raise Problem(
            "unreadable-views",
            f"the image is not kept: {error.reason}",
            views=[UnreadableView(index=0, name=None, reason=error.reason)],
        ) from None
    return decoded


def _check_inside(correction: Correction, rows: int, columns: int) -> None:
    outside = [
        (f"boxes.{place}", f"leaves the image, which has {columns} × {rows} px")
        for place, box in enumerate(correction.boxes)
        if box.x + box.width > columns + _ROUNDING or box.y + box.height > rows + _ROUNDING
    ]
    if outside:
        raise _refused(outside)


def _refused(wrong: list[tuple[str, str]]) -> Problem:
    errors = [InvalidValue(where=f"form.correction.{where}", what=what) for where, what in wrong]
    return invalid(*errors)


def _key(folder: Location) -> bytes:
    """The key in MSKRAY_HASH_KEY, which is then not in the bucket beside what it hides; else the store's own, made at
    first use: of two servers that make one, the first wins and both use its key."""
    from mskray.cohorts.corrections import KEY

    if given := os.environ.get(KEY_VARIABLE):
        return given.encode()
    place = folder.join(KEY)
    if not place.is_file():
        place.create(secrets.token_hex(_KEY_BYTES).encode())
    return place.read_bytes(4096).strip()
