"""Strange images are told from usual ones, what tells them survives its file, and a file that changed is refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from mskray.cohorts import Cohort
from mskray.ensemble import Ensemble, Member, describe, save_ensemble
from mskray.errors import UserError
from mskray.families import Prediction
from mskray.imaging.phantoms import PhantomSpec, render, studies
from mskray.outliers import OUTLIERS, Outliers, fit, look, read_outliers, write_outliers
from mskray.progress import Progress
from mskray.storage import locate
from mskray.verbs.outliers import fit_outliers

CANVAS = {"size": 96, "dtype": "uint8", "fit": "pad"}
RNG = np.random.default_rng(0)


def hands(seed: int, patients: int) -> list[np.ndarray]:
    spec = PhantomSpec(patients=patients, seed=seed, parts=("HAND",), image_size=96)
    return [render(spec, each.index, view).pixels for each in studies(spec) for view in range(len(each.views))]


def looked(pixels: list[np.ndarray], features: np.ndarray | None = None) -> dict[str, np.ndarray]:
    return look(pixels, CANVAS, Prediction(np.zeros((len(pixels), 2)), features=features))


@pytest.fixture(scope="module")
def fitted() -> tuple[Outliers, float]:
    return fit(looked(hands(1, 60)), looked(hands(2, 25)))


def text() -> np.ndarray:
    """Black bars of many lengths on white, as of a letter."""
    page = np.full((120, 90), 255, np.uint8)
    for row in range(6, 114, 6):
        page[row : row + 2, 6 : RNG.integers(40, 84)] = 0
    return page


STRANGE = {
    "white noise": lambda: RNG.integers(0, 256, (90, 90), dtype=np.uint8),
    "a page of text": text,
    "nothing": lambda: np.zeros((90, 90), np.uint8),
    "all white": lambda: np.full((90, 90), 65535, np.uint16),
    "stripes": lambda: np.tile(np.repeat(np.uint8([0, 255]), 8), (96, 6)),
}


@pytest.mark.parametrize("name", STRANGE)
def test_what_is_no_radiograph_is_strange(fitted: tuple[Outliers, float], name: str) -> None:
    outliers, threshold = fitted
    assert outliers(looked([STRANGE[name]()]))[0] > threshold


def test_hardly_any_radiograph_of_the_kind_is_strange(fitted: tuple[Outliers, float]) -> None:
    outliers, threshold = fitted
    others = hands(3, 40)
    assert (outliers(looked(others)) > threshold).mean() < 0.1
    deep = [each.astype(np.uint16) * 257 for each in others]
    np.testing.assert_allclose(outliers(looked(deep)), outliers(looked(others)), atol=0.05)


def test_features_alone_can_make_an_image_strange() -> None:
    """Of images whose pixels are alike, the one is strange whose features are."""
    pixels, rng = hands(1, 40), np.random.default_rng(1)
    usual = rng.normal(size=(len(pixels), 5)).astype(np.float32)
    outliers, threshold = fit(looked(pixels, usual), looked(pixels, usual))
    far = usual[:3] + np.float32([[0], [0], [40]])
    assert (outliers(looked(pixels[:3], far)) > threshold).tolist() == [False, False, True]


def test_the_file_gives_the_same_scores_and_a_changed_one_is_refused(
    fitted: tuple[Outliers, float], tmp_path: Path
) -> None:
    outliers, threshold = fitted
    folder = locate(tmp_path)
    test = write_outliers(outliers, threshold, "phantoms", 0, folder)
    member = Member(uri="file:///nowhere", hash="0")
    save_ensemble(Ensemble(name="x", task="t", classes=("a", "b"), members=(member,), outliers=test), folder)
    found = describe(folder).outliers
    assert found is not None
    assert found.file == str(folder.join(OUTLIERS))
    save_ensemble(
        Ensemble(
            name="x",
            task="t",
            classes=("a", "b"),
            members=(member,),
            outliers=test.model_copy(update={"member": 1}),
        ),
        locate(tmp_path / "other"),
    )
    with pytest.raises(UserError, match=r"outliers\.member is none of its members"):
        describe(str(tmp_path / "other"))
    values = looked(hands(4, 5))
    np.testing.assert_allclose(read_outliers(found)(values), outliers(values), rtol=1e-3, atol=1e-3)
    content = (tmp_path / OUTLIERS).read_bytes()
    (tmp_path / OUTLIERS).write_bytes(content[:-1] + b"x")
    with pytest.raises(UserError, match="is not what the ensemble was made with: make the ensemble again"):
        read_outliers(found)
    (tmp_path / OUTLIERS).unlink()
    with pytest.raises(UserError, match=OUTLIERS):
        read_outliers(found)


def test_an_ensemble_of_before_has_none(tmp_path: Path) -> None:
    member = Member(uri="file:///nowhere", hash="0")
    made = Ensemble(name="x", task="t", classes=("a", "b"), members=(member,)).model_dump(mode="json")
    del made["outliers"]
    locate(tmp_path).join("ensemble.json").write_json(made)
    assert describe(str(tmp_path)).outliers is None


def test_too_few_images_are_said_and_nothing_is_written(tiny_cohort: Callable[..., Cohort], tmp_path: Path) -> None:
    said: list[Progress] = []
    member = Member(uri="file:///nowhere", hash="0")
    made = Ensemble(name="x", task="t", classes=("a", "b"), members=(member,))
    assert fit_outliers(made, tiny_cohort((), [{}, {}]), locate(tmp_path / "out"), said.append) is None
    assert [each.stage for each in said] == [
        "split train has less than 20 images: what is out of distribution cannot be told"
    ]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no tensors", "no safetensors"),
        (save({}), "no look at all"),
        (save({"grey.location": np.zeros(3, np.float32)}), "the look 'grey' is not whole"),
        (
            save(
                {
                    "grey.location": np.zeros(3, np.float32),
                    "grey.precision": np.eye(2, dtype=np.float32),
                    "grey.scale": np.zeros(2, np.float32),
                }
            ),
            "the look 'grey' is not whole",
        ),
    ],
)
def test_what_is_no_such_file_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Outliers.of_bytes(content)
