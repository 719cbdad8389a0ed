"""Phantom spines: synthetic sagittal volumes with the corners of their vertebral bodies, for `vertebra_detector`.

    mskray ingest phantom-spine --out URI patients=500 seed=1

Nothing is read: the same options give the same volumes anywhere. A row is a volume; its discs with their grades are the
rows of `phantom-discs`. PhantomSpineOptions are those of `mskray.imaging.phantoms.spine.SpineSpec`.
"""

from collections.abc import Iterator
from typing import Literal

from mskray import __version__
from mskray.cohorts.schema import ImageFormat, Task
from mskray.cohorts.sources import Item, Loaded, Rejected, Source, register
from mskray.config import Section, setting
from mskray.imaging.decode import DecodedImage
from mskray.imaging.phantoms.spine import SpineSpec, spine
from mskray.imaging.regions import FitMode
from mskray.imaging.spine_cell import SIZE, SLICES, spine_cell
from mskray.storage import Location


class PhantomSpineOptions(Section):
    patients: int = setting(300, "how many patients, each with one volume", ge=1, le=10_000_000)
    seed: int = setting(0, "the same seed gives the same volumes", ge=0, le=2**63 - 1)
    changes: float = setting(
        1.0, "factor on the shares of endplate defects and marrow changes (13 to 18 %)", ge=0, le=4
    )


@register
class PhantomSpine(Source[PhantomSpineOptions]):
    name = "phantom-spine"
    summary = "synthetic sagittal spines with the corners of their vertebral bodies; needs no IN"
    kind = "spine"
    Options = PhantomSpineOptions
    located = False
    size = SIZE
    vertebrae = True

    def tasks(self, location: Location | None, options: PhantomSpineOptions) -> tuple[Task, ...]:
        return ()

    def format(
        self, size: int, dtype: Literal["uint8", "uint16"], fit: FitMode, options: PhantomSpineOptions
    ) -> ImageFormat:
        return ImageFormat(size=size, dtype=dtype, fit=fit, slices=SLICES)

    def items(self, location: Location | None, options: PhantomSpineOptions) -> Iterator[Item | Rejected]:
        for index in range(options.patients):
            # Phantoms of another seed are other people.
            patient = f"phantom-{options.seed}-{index}"
            yield Item(
                path=f"phantom-spine/{index}",
                patient_id=patient,
                study_id=patient,
                fingerprint=f"mskray-{__version__}",
                body_part="LSPINE",
                view="SAGITTAL",
                instance_id=patient,
            )

    def load_as(self, image: ImageFormat, path: str, data: bytes, options: PhantomSpineOptions) -> Loaded:
        phantom = spine(SpineSpec(options.patients, options.seed, options.changes), int(path.split("/")[1]))
        cell = spine_cell(phantom.volume, image.size)
        _, down, across = phantom.volume.spacing_mm
        decoded = DecodedImage(
            pixels=cell.pixels,
            format="phantom",
            bits=8,
            pixel_spacing_mm=(down / cell.placement.scale_y, across / cell.placement.scale_x),
            metadata={"modality": phantom.volume.modality},
        )
        return Loaded(decoded, vertebrae=tuple(cell.to_cell(body) for body in phantom.vertebrae))
