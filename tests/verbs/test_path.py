"""The whole path on phantoms in an object store: bundle → ensemble → report → batch predictions."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from small_run import Trained

from mskray import ensemble
from mskray.cohorts import Cohort
from mskray.cohorts.ingest import ingest
from mskray.ensemble import Seen
from mskray.errors import UserError
from mskray.explain.methods import METHODS
from mskray.families import Images, load_predictor
from mskray.prediction import batch
from mskray.progress import Progress
from mskray.serving.answers import Answering
from mskray.storage import Location, locate
from mskray.verbs.cohort import show
from mskray.verbs.ensemble import make_ensemble
from mskray.verbs.evaluate import evaluate_model
from mskray.verbs.predict import predict

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def bundle(trained: Trained) -> Location:
    return locate(trained.folder)


def test_an_evaluation_counts_every_row_and_its_report_stands_alone(
    phantom_cohort: Cohort, bundle: Location, s3_folder: Location
) -> None:
    result, folder = evaluate_model(
        str(bundle), str(phantom_cohort.location), "test", str(s3_folder.join("report")), resamples=200
    )
    assert result.counts["images"] == phantom_cohort.count("test")
    content = folder.join("metrics.json").read_bytes()
    metrics = json.loads(content, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    assert metrics["levels"]["image"]["overall"]["n"] == phantom_cohort.count("test")
    page = folder.join("report.html").read_bytes().decode()
    assert "not a medical device" in page.lower()
    assert not re.search(r'(src|href)="https?:', page)
    assert page.count('class="heat ') == len(METHODS) * page.count('class="picture"') > 0
    table = pq.read_table(io.BytesIO(folder.join("predictions.parquet").read_bytes()))
    assert sorted(table["instance_id"].to_pylist()) == sorted(
        phantom_cohort.metadata("test", ["instance_id"])["instance_id"].to_pylist()
    )


def test_a_calibrated_ensemble_predicts_a_cohort_as_its_members_do(
    phantom_cohort: Cohort, bundle: Location, tmp_path: Path
) -> None:
    made = make_ensemble([str(bundle)], str(tmp_path / "one"), calibrate=str(phantom_cohort.location))
    assert made.calibration.temperature > 0
    assert made.calibration.fitted_on is not None
    assert 0 <= made.threshold <= 1
    assert made.outliers is not None
    assert (made.outliers.member, made.outliers.quantile) == (0, 0.995)
    assert ensemble.describe(str(tmp_path / "one")).outliers.hash == made.outliers.hash
    split = phantom_cohort.read_shard(phantom_cohort.shards("validation")[0], ["image"])["image"]
    answering = Answering(ensemble.load(str(tmp_path / "one")))
    seen = Seen([*split, np.random.default_rng(0).integers(0, 256, split[0].shape, np.uint8)])
    strange = answering.judged(seen, [load_predictor(bundle)[1](seen)]).strange
    assert strange[-1]
    assert strange[:-1].sum() <= 1
    table = predict(str(bundle), str(phantom_cohort.location), str(tmp_path / "all.parquet"))
    assert len(table) == sum(phantom_cohort.count(split) for split in phantom_cohort.splits)
    one = table.filter(table["split"].cast("string").to_numpy() == "test").slice(0, 1).to_pylist()[0]
    image = phantom_cohort.images("test", [one["instance_id"]])[one["instance_id"]]
    _, predictor = load_predictor(bundle)
    expected = predictor(Images([image])).probabilities[0]
    assert [one["prob_normal"], one["prob_abnormal"]] == pytest.approx(expected.tolist(), abs=1e-5)


def test_a_cohort_without_labels_is_predicted(ray_cluster: str, bundle: Location, tmp_path: Path) -> None:
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((80, 60), 60 * number + 20, np.uint8))
    (tmp_path / "images.csv").write_text("path,patient_id\n" + "".join(f"{n}.png,p{n}\n" for n in range(3)))
    place = str(tmp_path / "cohort")
    ingest("manifest", tmp_path / "images.csv", place, settings={"size": 64}, key=b"a key for tests only")
    said: list[Progress] = []
    table = predict(str(bundle), place, str(tmp_path / "out.parquet"), report=said.append)
    assert any("bundle was not trained on UNKNOWN" in each.stage for each in said)
    assert table["label"].to_pylist() == [None] * 3
    assert np.isfinite(table["prob_abnormal"].to_numpy()).all()
    with pytest.raises(UserError, match="has no task 'abnormality'"):
        evaluate_model(str(bundle), place, "train", str(tmp_path / "report"))


def test_a_folder_is_predicted_file_by_file_and_bad_files_are_named(
    ray_cluster: str, bundle: Location, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 255, (90, 60), dtype=np.uint8)
    cv2.imwrite(str(folder / "a.png"), pixels)
    cv2.imwrite(str(folder / "deep" / "b c.jpg"), pixels)
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:200])
    (folder / "letter.png").write_bytes(b"%PDF-1.7 dear colleague")
    table = predict(str(bundle), str(folder), str(tmp_path / "out.parquet"))
    rows = {row["path"]: row for row in table.to_pylist()}
    assert set(rows) == {"a.png", "deep/b c.jpg", "cut.png", "letter.png"}
    assert rows["a.png"]["prob_normal"] + rows["a.png"]["prob_abnormal"] == pytest.approx(1, abs=1e-5)
    assert rows["deep/b c.jpg"]["error"] is None
    assert rows["cut.png"]["prob_normal"] is None
    assert "truncated" in rows["cut.png"]["error"]
    assert "PDF" in rows["letter.png"]["error"]
    alone = predict(str(bundle), str(folder / "a.png"), str(tmp_path / "one.parquet")).to_pylist()
    assert alone[0]["prob_abnormal"] == pytest.approx(rows["a.png"]["prob_abnormal"], abs=1e-5)


def test_without_a_cluster_one_process_says_the_same_and_starts_no_ray(
    phantom_cohort: Cohort, bundle: Location, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(20):  # several batches, in which some cannot be read
        pixels = np.random.default_rng(number).integers(0, 255, (90, 60 + number), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{number:02}.png"), pixels)
    (folder / "03.png").write_bytes(b"%PDF-1.7 dear colleague")
    for source in (str(folder), str(phantom_cohort.location)):
        predict(str(bundle), source, str(tmp_path / "ray.parquet"))
        call = "import sys; from mskray.verbs.predict import predict; predict(*sys.argv[1:])"
        call += "; assert 'ray' not in sys.modules"
        arguments = [str(bundle), source, str(tmp_path / "here.parquet")]
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        subprocess.run([sys.executable, "-c", call, *arguments], check=True, env=environment, timeout=300)
        on_ray, here = (pq.read_table(tmp_path / f"{name}.parquet").to_pydict() for name in ("ray", "here"))
        assert list(here) == list(on_ray)
        for name, values in on_ray.items():
            if name.startswith("prob_"):
                np.testing.assert_allclose(np.array(here[name], float), np.array(values, float), atol=1e-5)
            else:
                assert here[name] == values


def test_a_cohort_is_described_with_a_contact_sheet(phantom_cohort: Cohort, tmp_path: Path) -> None:
    text = show(str(phantom_cohort.location), str(tmp_path / "sheet.png"))
    assert "quarantine: empty" in text
    assert "abnormal" in text
    assert cv2.imread(str(tmp_path / "sheet.png")).std() > 10


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model, cohort, out: evaluate_model(model, cohort, "tset", out), "has no split 'tset'"),
        (lambda model, cohort, out: evaluate_model(out, cohort, "test", out), "holds neither bundle.json nor"),
        (lambda model, cohort, out: evaluate_model(model, out, "test", out), "cohort.json"),
        (lambda model, cohort, out: predict(model, out, out + ".parquet"), "holds no files|does not exist"),
        (lambda model, cohort, out: predict(model, cohort, out, split="x"), "has no split 'x'"),
        (lambda model, cohort, out: make_ensemble([model], out, calibrate=out), "cohort.json"),
    ],
)
def test_mistakes_are_one_line(phantom_cohort: Cohort, bundle: Location, tmp_path: Path, call, message: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=message) as caught:
        call(str(bundle), str(phantom_cohort.location), str(tmp_path / "empty"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("here", [False, True])
def test_a_mistake_found_in_a_worker_is_one_line(
    phantom_cohort: Cohort, bundle: Location, monkeypatch: pytest.MonkeyPatch, here: bool
) -> None:
    def broken(*args) -> object:
        def read(items: object) -> object:
            raise UserError("the shard\nis gone")

        return read

    monkeypatch.setattr(batch, "cohort_reader", broken)
    predicting = batch.Predicting(str(bundle), ensemble.describe(bundle), here=here)
    with pytest.raises(UserError) as caught:
        predicting.cohort(phantom_cohort, ["test"])
    assert str(caught.value) == "the shard is gone"


def test_reports_of_two_cohorts_lie_beside_each_other(phantom_cohort: Cohort, bundle: Location) -> None:
    _, folder = evaluate_model(str(bundle), str(phantom_cohort.location), "test", resamples=100)
    assert folder == bundle.join("evaluation", f"test-{phantom_cohort.content_hash[:8]}")
    assert folder.join("report.html").is_file()
