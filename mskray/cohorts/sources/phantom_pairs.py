"""Synthetic pairs of MR-like knees with a marrow lesion that improves, persists or regresses.

    mskray ingest phantom-pairs --out URI patients=200 seed=1

Nothing is read: the same options give the same images anywhere. What stays and what differs between the two scans
stands in `mskray.imaging.phantoms.marrow`. A patient has one to three pairs, each with a lesion of its own.
"""

from collections.abc import Iterator

from mskray import __version__
from mskray.cohorts.change import CHANGE, IMPROVED, change_labels
from mskray.cohorts.schema import Task
from mskray.cohorts.sources import Item, Loaded, Rejected, register
from mskray.cohorts.sources._pairs import PairSource
from mskray.config import Section, setting
from mskray.errors import UserError
from mskray.imaging.decode import DecodedImage
from mskray.imaging.phantoms.marrow import CHANGES, FIELD_MM, MarrowSpec, PlannedPair, marrow_pairs, render_pair
from mskray.storage import Location


class PhantomPairsOptions(Section):
    patients: int = setting(45, "how many patients, of one to three pairs each", source="CRMO", ge=1, le=1_000_000)
    seed: int = setting(0, "the same seed gives the same images", ge=0, le=2**63 - 1)
    image_size: int = setting(256, "side of an image before it is stored", unit="px", ge=64, le=1024)
    shares: tuple[float, float, float] = setting(
        (0.35, 0.2, 0.45), "of pairs that regressed, persisted and improved; scaled to sum to 1"
    )
    noise: float = setting(
        0.06, "most noise of a scan, as a share of the brightest tissue; it differs from scan to scan", ge=0, le=1
    )


@register
class PhantomPairs(PairSource[PhantomPairsOptions]):
    name = "phantom-pairs"
    summary = (
        "synthetic pairs of MR slices: a marrow lesion shrinks (improved), stays or grows (regressed); needs no IN"
    )
    Options = PhantomPairsOptions
    located = False
    masks = True

    def tasks(self, location: Location | None, options: PhantomPairsOptions) -> tuple[Task, ...]:
        if min(options.shares) < 0 or not any(options.shares):
            raise UserError(f"shares={list(options.shares)}: give three numbers from 0, not all 0")
        return (CHANGE, IMPROVED)

    def items(self, location: Location | None, options: PhantomPairsOptions) -> Iterator[Item | Rejected]:
        for pair in marrow_pairs(_spec(options)):
            # Phantoms of another seed are other people.
            patient = f"phantom-pairs-{options.seed}-{pair.patient}"
            yield Item(
                path=f"phantom-pairs/{pair.patient}/{pair.number}/{CHANGES[pair.change]}",
                patient_id=patient,
                study_id=f"{patient}-{pair.number}",
                fingerprint=f"mskray-{__version__}",
                labels=change_labels(CHANGE.classes.index(CHANGES[pair.change])),
                body_part="KNEE",
                view="CORONAL",
                view_index=pair.number,
                instance_id=f"{patient}-{pair.number}",
            )

    def load(self, path: str, data: bytes, options: PhantomPairsOptions) -> Loaded:
        _, patient, number, change = path.split("/")
        drawn = render_pair(_spec(options), PlannedPair(int(patient), int(number), CHANGES.index(change)))
        spacing = FIELD_MM / options.image_size
        image = DecodedImage(
            pixels=drawn.pixels, format="phantom", bits=8, pixel_spacing_mm=(spacing, spacing), metadata={}
        )
        return Loaded(image, mask=drawn.masks)


def _spec(options: PhantomPairsOptions) -> MarrowSpec:
    return MarrowSpec(**options.model_dump())
