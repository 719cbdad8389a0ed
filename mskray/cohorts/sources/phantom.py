"""Phantoms: synthetic radiographs with exact boxes and masks, rendered by the workers that store them.

    mskray ingest phantom --out URI patients=2000 seed=1

Nothing is read: the same options give the same images anywhere. PhantomOptions are those of
`mskray.imaging.phantoms.PhantomSpec`.
"""

from collections.abc import Iterator
from typing import Literal

from mskray import __version__
from mskray.cohorts.schema import ABNORMALITY, Task
from mskray.cohorts.sources import Finding, Item, Loaded, Rejected, Source, register
from mskray.config import Section, setting
from mskray.imaging.decode import DecodedImage
from mskray.imaging.phantoms import BODY_PARTS, KINDS, PhantomSpec, render, studies
from mskray.storage import Location


class PhantomOptions(Section):
    patients: int = setting(500, "how many patients; one in four has two studies", ge=1, le=10_000_000)
    seed: int = setting(0, "the same seed gives the same images", ge=0, le=2**63 - 1)
    image_size: int = setting(256, "long side of an image before it is stored", unit="px", ge=64, le=2000)
    bits: Literal[8, 16] = setting(8, "bits of a rendered pixel", unit="bits")
    abnormal_fraction: float = setting(0.5, "share of abnormal studies", ge=0, le=1)
    kinds: tuple[str, ...] = setting(KINDS, "which abnormalities are drawn, each equally often")
    lesion_scale: tuple[float, float] = setting(
        (0.5, 1.0), "smallest and largest size of an abnormality, as a share of what its bone bears (0.1 to 1)"
    )
    flag_fraction: float = setting(0.7, "share of images with an L or R flag", ge=0, le=1)
    flag_bias: float = setting(
        0.5, "how much the flag's letter gives the label away; 0.5: not at all, 1: always", ge=0.5, le=1
    )
    parts: tuple[str, ...] = setting(BODY_PARTS, "body parts, each equally often")


@register
class Phantom(Source[PhantomOptions]):
    name = "phantom"
    summary = "synthetic radiographs with known boxes and masks; needs no IN"
    Options = PhantomOptions
    located = False
    masks = True

    def tasks(self, location: Location | None, options: PhantomOptions) -> tuple[Task, ...]:
        _spec(options)
        return (ABNORMALITY,)

    def items(self, location: Location | None, options: PhantomOptions) -> Iterator[Item | Rejected]:
        for study in studies(_spec(options)):
            for place, view in enumerate(study.views):
                yield Item(
                    path=f"phantom/{study.index}/{place}",
                    # Phantoms of another seed are other people.
                    patient_id=f"phantom-{options.seed}-{study.patient_id}",
                    study_id=study.study_id,
                    fingerprint=f"mskray-{__version__}",
                    labels={ABNORMALITY.name: study.label},
                    body_part=study.body_part,
                    view=view,
                    view_index=place,
                    laterality=study.laterality,
                    instance_id=f"phantom-{options.seed}-{study.study_id}-{place}",
                )

    def load(self, path: str, data: bytes, options: PhantomOptions) -> Loaded:
        _, study, view = path.split("/")
        phantom = render(_spec(options), int(study), int(view))
        image = DecodedImage(
            pixels=phantom.pixels,
            format="phantom",
            bits=options.bits,
            pixel_spacing_mm=phantom.pixel_spacing_mm,
            metadata={},
        )
        findings = tuple(Finding(each.kind, each.box) for each in phantom.findings)
        return Loaded(image, findings, phantom.mask)


def _spec(options: PhantomOptions) -> PhantomSpec:
    return PhantomSpec(**options.model_dump())
