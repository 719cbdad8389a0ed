"""The whole loop: a model is served, readers correct it, corrections are learned, and old and new are compared."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import pyarrow.parquet as pq
import pytest
import requests
import yaml
from serving_samples import Local, over_http
from small_run import Trained, small_job

from mskray.bundles import read_description
from mskray.cli import main
from mskray.cohorts import Cohort, open_cohort
from mskray.cohorts.sources import Item, get_source
from mskray.ensemble import load
from mskray.imaging.deidentify import KEY_VARIABLE, Pseudonymiser
from mskray.serving.api import build_api
from mskray.serving.settings import Limits
from mskray.serving.tokens import Access
from mskray.storage import locate

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

KEY = "a key for tests only"
CLASSES = ("normal", "abnormal")


@dataclass(frozen=True)
class Shown:
    """A picture that a reader looks at: its PNG, its true class, its true box."""

    png: bytes
    truth: str
    boxes: list[dict[str, Any]]


def phantoms(**options: Any) -> Iterator[tuple[Item, Shown]]:
    source = get_source("phantom")
    checked = source.Options(image_size=96, **options)
    for item in source.items(None, checked):
        assert isinstance(item, Item)
        loaded = source.load(item.path, b"", checked)
        boxes = [
            {"name": each.kind, **dict(zip(("x", "y", "width", "height"), map(float, each.box), strict=True))}
            for each in loaded.findings
            if each.kind != "flag"
        ]
        png = cv2.imencode(".png", loaded.image.pixels)[1].tobytes()
        yield item, Shown(png, CLASSES[item.labels["abnormality"] or 0], boxes)


def held_out(cohort: Cohort) -> Shown:
    """A picture of the test split, as somebody else might send it."""
    names = set(cohort.metadata("test", ["instance_id"])["instance_id"].to_pylist())
    key = Pseudonymiser(KEY.encode())
    return next(shown for item, shown in phantoms(patients=60) if key.instance(item.instance_id or "") in names)


def correct(url: str, shown: Shown) -> None:
    """Predict a picture, then say what it shows."""
    answer = requests.post(f"{url}/v1/studies", files=[("views", ("a.png", shown.png))], timeout=30)
    assert answer.status_code == 200, answer.text
    content = answer.json()
    correction = {
        "task": content["model"]["task"],
        "label": shown.truth,
        "said": content["study"]["label"],
        "boxes": shown.boxes,
        "reason": "as it was drawn",
        "model": content["model"]["hash"],
    }
    fields = {"correction": json.dumps(correction)}
    kept = requests.post(f"{url}/v1/feedback", files=[("image", ("a.png", shown.png))], data=fields, timeout=30)
    assert kept.status_code == 201, kept.text


def command(*words: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        main(words)
    said = capsys.readouterr()
    assert ended.value.code == 0, said.err
    return said.out + said.err


def test_corrections_are_learned_and_compared(
    phantom_cohort: Cohort,
    trained: Trained,
    object_store: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in {**object_store.env, KEY_VARIABLE: KEY}.items():
        monkeypatch.setenv(name, value)
    store, old = locate(tmp_path / "store" / "feedback"), str(trained.folder)

    limits, served = Limits(), Local(load(old))
    app = build_api(served, limits, Access(), feedback=str(store))
    new = [shown for _, shown in phantoms(patients=8, seed=7)]
    sent = [*new, held_out(phantom_cohort)]
    with over_http(app) as url:
        for shown in sent:
            correct(url, shown)

    added = tmp_path / "cohort"
    words = ("--out", str(added), "--size", "64", "--names", str(tmp_path / "names.csv"), "body_part=HAND")
    command("ingest", "feedback", str(store), *words, capsys=capsys)
    cohort = open_cohort(added)
    assert cohort.splits == ("train",)
    assert cohort.count("train") == len(sent)
    assert len(cohort.quarantine()) == 0
    found = cohort.columns("train", ["findings", "label_abnormality"])
    assert sum(map(len, found["findings"])) == sum(len(shown.boxes) for shown in sent) > 0
    assert found["label_abnormality"].sum() == sum(shown.truth == "abnormal" for shown in sent) > 0

    bundle = tmp_path / "new"
    job = small_job(phantom_cohort, locate(bundle), loop={"epochs": 1, "checkpoint_minutes": 0.01})
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    said = command("train", str(tmp_path / "job.yaml"), "--add", str(added), capsys=capsys)
    assert f"added {added}: {len(new)} images, in place of 0" in said
    assert "1 left out" in said, "the picture of the test split"
    described, before = read_description(locate(bundle)), read_description(locate(old))
    assert [(each.uri, each.images, each.left_out) for each in described.added] == [(str(locate(added)), len(new), 1)]
    assert described.added[0].content_hash == cohort.content_hash
    assert described.cohort == before.cohort
    assert described.fingerprint != before.fingerprint
    assert described.hash != before.hash
    assert sum(described.labels.values()) == sum(before.labels.values()) + len(new)
    assert str(added) in (bundle / "card.md").read_text()
    again = command("train", str(tmp_path / "job.yaml"), "--add", str(added), capsys=capsys)
    assert "already trained by this very job" in again

    folder = tmp_path / "comparison"
    words = ("--cohort", str(phantom_cohort.location), "--out", str(folder), "--resamples", "200")
    said = command("compare", old, str(bundle), *words, capsys=capsys)
    assert "right → wrong" in said
    content = json.loads((folder / "compare.json").read_text())
    studies = phantom_cohort.manifest.counts.splits["test"].studies
    assert content["counts"]["studies"] == studies
    changes = content["changes"]
    assert sum(changes[name] for name in ("both_right", "both_wrong", "wrong_to_right", "right_to_wrong")) == studies
    gained = (changes["wrong_to_right"] - changes["right_to_wrong"]) / studies
    assert content["figures"]["difference"]["accuracy"]["value"] == pytest.approx(gained, abs=1e-5)
    assert content["models"]["new"]["added"][0]["uri"] == str(locate(added))
    assert str(locate(added)) in (folder / "compare.html").read_text()

    with pytest.raises(SystemExit):
        main(("compare", old, str(bundle), "--cohort", str(added), "--split", "train"))
    assert "learned from train of" in capsys.readouterr().err
    assert pq.read_schema(next((added / "split=train").iterdir())).names == cohort.schema.names
