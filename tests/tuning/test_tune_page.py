"""The page of a search: well-formed, self-contained, with every trial and the ledger's own figures."""

import json
import math
import re
from pathlib import Path

import pytest
from report_page import Page
from searches import KAPPA, description, trial

from mskray.errors import UserError
from mskray.storage import locate
from mskray.tuning.ledger import Ledger
from mskray.tuning.page import write_page
from mskray.verbs.tune_show import show

LATENCY = "latency_ms"
RATE = {"optimizer.learning_rate": {"loguniform": [1e-5, 1e-2]}}
HOSTILE = "\"><script>alert('x')</script>&amp;[red]\x07"
TASKS = ("narrowing", "pfirrmann")


def history(top: float, key: str = "val_kappa"):
    return tuple({"epoch": e, "train_loss": 1 / e, key: top * (1 - math.exp(-e))} for e in (1, 2, 3))


def few():
    rates = enumerate((1e-4, 3e-3, 2e-5))
    return [trial(i, {"optimizer.learning_rate": rate}, 0.4 + i / 10, history=history(0.5)) for i, rate in rates]


def many():
    """60 trials with conditions and three metrics; one in nine failed or was stopped."""
    made = []
    for i in range(60):
        rate = 10 ** (-2 - 3 * (i * 0.618 % 1))
        parameters = {"optimizer.learning_rate": rate, "optimizer.name": ("sgd", "adamw")[i % 2], "flip": i % 3 == 0}
        parameters |= {"optimizer.momentum": 0.5 + i / 200} if i % 2 == 0 else {}
        parameters["network.backbone"] = f"a_backbone_of_a_long_name_{i % 7}"
        if i % 9:
            more = {LATENCY: 10 + i % 5, "size_mb": 5.0 + i % 4}
            made.append(trial(i, parameters, 0.5 + i / 200, more=more, history=history(0.5), epochs=3))
        else:
            made.append(trial(i, parameters, state="stopped" if i % 2 else "failed", reason=f"because of {i}"))
    return made


def repeats():
    folds = ({KAPPA: 0.4}, {KAPPA: 0.6})
    return [
        trial(3 * i + seed, {"w": i}, 0.5 + i / 20 + seed / 100, seed=seed, folds=folds, spread={KAPPA: 0.1})
        for i in range(6)
        for seed in range(3 if i < 2 else 1)
    ]


def hostile():
    values = [HOSTILE, [HOSTILE, 1], {HOSTILE: None}, True, "", 1e300]
    made = [
        trial(
            i,
            {HOSTILE: value, "optimizer.learning_rate": 1e-3},
            i / 10,
            history=({"epoch": HOSTILE, "val_kappa": 0.1},),
        )
        for i, value in enumerate(values)
    ]
    return [*made, trial(9, {HOSTILE: HOSTILE}, state="failed", reason=HOSTILE)]


def diverged():
    curves = [({"epoch": 1, "val_loss": 0.7 if i else 1e9}, {"epoch": 2, "val_loss": 0.6}) for i in range(4)]
    return [trial(i, {"a": i}, 0.5, history=curve) for i, curve in enumerate(curves)]


SEARCHES = {
    "none": (description(RATE), []),
    "one": (description(RATE), few()[:1]),
    "three": (description(RATE), few()),
    "sixty": (
        description({**RATE, "optimizer.momentum": {"uniform": [0.5, 0.9]}}, (KAPPA, LATENCY, "size_mb")),
        many(),
    ),
    "all failed": (description(RATE), [trial(i, {"a": i}, state="failed", reason="no memory") for i in range(3)]),
    "repeats": (description({"w": {"choice": [0, 1, 2, 3, 4, 5]}}, folds={"count": 2}), repeats()),
    "hostile": (description({HOSTILE: {"choice": [HOSTILE]}}, task=HOSTILE, base={HOSTILE: HOSTILE}), hostile()),
    "diverged": (description({}), diverged()),
    "still open": (description(RATE), [trial(0, {"optimizer.learning_rate": 1e-3})]),
}


def written(folder: Path, told, records) -> tuple[Ledger, str, dict]:
    ledger = Ledger(locate(folder))
    ledger.describe_as(told)
    for record in records:
        ledger.write(record)
    place = write_page(ledger)
    return ledger, place.read_bytes().decode(), json.loads((folder / "leaderboard.json").read_text())


@pytest.mark.parametrize("name", SEARCHES)
def test_the_page_is_well_formed_loads_nothing_and_has_every_trial(tmp_path, name):
    told, records = SEARCHES[name]
    _, html, board = written(tmp_path, told, records)
    page = Page(html)
    assert not {"script", "link", "iframe", "object", "embed", "img"} & set(page.tags)
    assert not re.search(r"https?:|@import|url\(", html)
    assert not [key for _, key, _ in page.attributes if key.startswith("on")]
    assert ("meta", "content", "default-src 'none'; style-src 'unsafe-inline'") in page.attributes
    ids = [value for _, key, value in page.attributes if key == "id"]
    assert len(ids) == len(set(ids))
    assert {value for _, key, value in page.attributes if key == "aria-labelledby"} <= set(ids)
    pictures = [tag for tag in page.tags if tag == "svg"]
    spoken = [value for tag, key, value in page.attributes if tag == "svg" and key in ("aria-label", "aria-hidden")]
    assert len(spoken) == len(pictures)
    assert not re.search(r"\b(nan|inf)\b", html)
    for record in records:
        assert record.id in page.texts
    assert sorted(each["id"] for row in board["rows"] for each in row["trials"]) == sorted(each.id for each in records)


def test_figures_are_those_of_the_ledger(tmp_path):
    ledger, html, board = written(tmp_path, *SEARCHES["repeats"])
    read = {each.id: each for each in ledger.trials()}
    first = board["rows"][0]
    figures = [read[each["id"]].figures[KAPPA] for each in first["trials"]]
    # Seeds 0, 1, 2 of w = 1: 0.55, 0.56, 0.57.
    assert figures == pytest.approx([0.55, 0.56, 0.57])
    assert first["figures"][KAPPA] == {"mean": pytest.approx(0.56), "sd": pytest.approx(0.01), "over": "seeds", "n": 3}
    assert [row["rank"] for row in board["rows"]] == [1, 2, 3, 4, 5, 6]
    text = Page(html).text
    assert "Cohen’s κ (study) on validation: 0.560 ± 0.010, the best of 6" in text
    assert "0.560 ± 0.010 3 seeds" in text
    assert "0.750 ± 0.100 2 folds" in text
    assert "part of the lead" not in text


def test_the_front_has_its_charts_and_marks(tmp_path):
    told, records = SEARCHES["sixty"]
    _, html, board = written(tmp_path, told, records)
    text = Page(html).text
    assert "60 trials of classifier on s3://bucket/knees: 53 finished, 3 stopped, 4 failed." in text
    titles = [f"Cohen’s κ (study) against {other}" for other in ("Latency, ms", "Size, MB")]
    assert all(title in text for title in titles)
    front = [row for row in board["rows"] if row["pareto"]]
    assert board["rows"][0] in front
    assert 1 < len(front) < 53
    assert text.count(" yes ") == len(front)
    assert "because of 9" in text
    assert "35 more" in text
    shares = board["importance"]["shares"]
    assert set(shares) == {key for record in records for key in record.parameters}
    for key, share in shares.items():
        assert f"{key} {100 * share:.0f} % {26 if 'momentum' in key else 53} sets of parameters" in text


def test_hostile_words_stay_words(tmp_path):
    _, html, _ = written(tmp_path, *SEARCHES["hostile"])
    assert "<script" not in html
    assert HOSTILE.replace("\x07", "·") in Page(html).text


def test_a_curve_that_diverged_does_not_hide_the_others(tmp_path):
    _, html, _ = written(tmp_path, *SEARCHES["diverged"])
    # The median of 0.6 (four times), 0.7 (three times) and 1e9 is 0.65.
    assert "Cut at 2.60: the highest is 1,000,000,000." in Page(html).text


def test_spinenet_has_accuracy_by_branch_point_beside_the_papers(tmp_path):
    def of(number, branch, low, seed=0):
        figures = {f"validation.{task}.balanced_accuracy": low + place / 10 for place, task in enumerate(TASKS)}
        figures["validation.tasks.balanced_accuracy"] = low + 0.05
        return trial(number, {"network.branch": branch}, state="finished", seed=seed, more=figures)

    told = description(
        {"network.branch": {"grid": ["conv3", "fc6"]}}, ("validation.tasks.balanced_accuracy",), family="spinenet"
    )
    _, html, _ = written(tmp_path, told, [of(0, "fc6", 0.5), of(1, "fc6", 0.6, 1), of(2, "conv3", 0.7)])
    text = Page(html).text
    # SpineNet, Table 2: Pfirrmann and narrowing of conv3 and fc6.
    assert "branch point whose pfirrmann narrowing mean" in text
    assert "conv3 best of 1 80.0 70.0 75.0 paper 71.2 ± 1.0 74.4 ± 0.4 –" in text
    assert "fc6 best of 1 65.0 ± 7.1 55.0 ± 7.1 60.0 ± 7.1 paper 69.8 ± 0.4 73.2 ± 0.1 –" in text


def test_bags_of_words_have_error_by_vocabulary(tmp_path):
    f1 = "validation.image.f1"
    space = {"vocabulary": {"grid": [50, 500]}, "classifier.name": {"grid": ["svm", "bayes"]}}
    told = description(space, (f1,), family="pair_bovw", base={"keypoints": {"descriptor": "orb"}})
    records = [
        trial(i, {"vocabulary": size, "classifier.name": name, "classifier.c": c}, state="finished", more={f1: value})
        for i, (size, name, c, value) in enumerate(
            [(50, "svm", 1, 0.6), (50, "svm", 10, 0.7), (500, "svm", 1, 0.8), (50, "bayes", 1, 0.5)]
        )
    ]
    _, html, _ = written(tmp_path, told, records)
    page = Page(html)
    assert {"orb, svm, 50 words: 0.300", "orb, svm, 500 words: 0.200", "orb, bayes, 50 words: 0.500"} <= set(page.texts)
    assert not any("words: 0.400" in text for text in page.texts)


def test_a_metric_that_nobody_reported_leaves_no_page(tmp_path):
    told = description(metrics=("validation.study.kapa",))
    with pytest.raises(UserError, match=r"did you mean validation\.study\.kappa"):
        written(tmp_path, told, few())
    assert not (tmp_path / "tune.html").exists()


@pytest.mark.parametrize("name", SEARCHES)
def test_show_lists_the_rows_and_writes_nothing(tmp_path, name):
    told, records = SEARCHES[name]
    _, _, board = written(tmp_path, told, records)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    text = show(str(tmp_path))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    listed = [
        words[1]
        for words in map(str.split, text.splitlines())
        if len(words) > 1 and re.fullmatch(r"[–\d]+\*?", words[0])
    ]
    judged = {each.id: each for each in records}
    assert [name for name in listed if name in judged] == [
        next(each["id"] for each in row["trials"] if each["state"] == row["state"]) for row in board["rows"]
    ]
    if board["rows"] and board["rows"][0]["rank"]:
        assert f"mskray tune promote {locate(tmp_path)} retrains {board['rows'][0]['trials'][0]['id']}" in text
    marks = len(re.findall(r"^\d+\*", text, re.MULTILINE))
    assert marks == (sum(row["pareto"] for row in board["rows"]) if len(told.metrics) > 1 else 0)


def test_show_of_another_folder_says_so(tmp_path):
    with pytest.raises(UserError, match=r"has no tune\.json"):
        show(str(tmp_path))
