"""The report in a real browser: it shows its words and figures and fits a phone, without a network."""

import subprocess
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from mskray.evaluation.report import write_report
from mskray.evaluation.result import evaluate

pytestmark = [pytest.mark.system("chromium"), pytest.mark.slow]

CHROMIUM = [
    "chromium",
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    random = np.random.default_rng(0)
    label = random.integers(0, 2, 120)
    score = np.clip(0.3 + 0.4 * label + random.normal(0, 0.2, 120), 0.01, 0.99)
    predictions = pd.DataFrame(
        {
            "instance_id": [f"i{index}" for index in range(120)],
            "study_id": [f"s{index // 2}" for index in range(120)],
            "patient_id": [f"p{index // 4}" for index in range(120)],
            "body_part": np.where(np.arange(120) // 2 % 2, "HAND", "WRIST"),
            "label": np.repeat(label[::2], 2),
            "prob_normal": 1 - score,
            "prob_abnormal": score,
        }
    )
    result = evaluate(predictions, ["normal", "abnormal"], resamples=200)
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(write_report(result, {"bundle": "knees", "split": "test"}), encoding="utf-8")
    return path


def browse(page: Path, *options: str) -> str:
    command = [*CHROMIUM, f"--user-data-dir={page.parent / 'profile'}", *options, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def test_its_words_are_on_the_page(page: Path) -> None:
    document = browse(page, "--dump-dom")
    for words in ("knees", "not a medical device", "Sensitivity", "HAND", "WRIST"):
        assert words.lower() in document.lower()


@pytest.mark.parametrize("width", [1200, 500])
def test_it_is_drawn_at_desktop_and_tablet_width(page: Path, width: int) -> None:
    picture = page.parent / f"{width}.png"
    browse(page, f"--screenshot={picture}", f"--window-size={width},1400", "--hide-scrollbars")
    image = cv2.imread(str(picture))
    assert image.shape[1] == width
    # Text and charts, neither an empty page nor a broken one: ink in every quarter of its height.
    for quarter in np.array_split(image, 4):
        assert quarter.std() > 8
