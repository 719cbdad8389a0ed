"""The command line: each mistake is one line on stderr and exit code 2; help and listings work without a cluster."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mskray.cli import main


def call(*words: str, capsys: pytest.CaptureFixture) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(words)
    out = capsys.readouterr()
    return int(ended.value.code or 0), out.out, out.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "No such command 'trian'"),
        (["train"], "Missing argument 'CONFIG.yaml'"),
        (["train", "nowhere.yaml"], "config nowhere.yaml does not exist"),
        (["train", "job.yaml", "loop.epochs"], "is not of the form section.key=value"),
        (["train", "job.yaml", "loop.epochs=many"], "loop.epochs = 'many' is not allowed (allowed: int, ≥ 1"),
        (["train", "job.yaml", "loop.epoch=3"], "unknown key loop.epoch (did you mean loop.epochs?"),
        (["train", "job.yaml", "network.backbone=resnet19"], "resnet18 | resnet34"),
        (["train", "job.yaml", "family=oracle"], "unknown family 'oracle': known are classifier"),
        (["train", "job.yaml", "family=clasifier"], "did you mean classifier?"),
        (["train", "job.yaml", "loop.epoch=3"], "job.yaml and the command line: unknown key"),
        (["train", "job.yaml"], "cohort.json"),
        (["spine-table", "job.yaml"], "family classifier has no branch points: spine-table trains spinenet"),
        (["families", "oracle"], "unknown family 'oracle'"),
        (["sources", "murra"], "unknown source 'murra'"),
        (["ingest", "mura", "--out", "out"], "needs the place of its files"),
        (["ingest", "mura", "empty", "--out", "out"], "empty"),
        (["ingest", "mura", "nowhere", "--out", "out"], "nowhere"),
        (["ingest", "murra", "empty", "--out", "out"], "murra"),
        (["ingest", "phantom", "--out", "out", "patients=0"], "patients = 0 is not allowed"),
        (["ingest", "phantom", "--out", "out", "patient=5"], "did you mean patients?"),
        (["ingest", "phantom", "--out", "out", "--size", "9"], "size = 9"),
        (["ingest", "phantom", "--out", "out", "--split-fractions", "0.9,0.9,0.9"], "1"),
        (["ingest", "phantom", "--out", "out", "--split-fractions", "most"], "give three numbers"),
        (["ingest", "phantom", "--out", "ftp://server/x"], "ftp"),
        (["ingest", "mura", "a", "b", "--out", "out"], "one IN, not 2"),
        (["ingest", "manifest", "date=2026/x.csv", "--out", "out"], "x.csv column label_grade has 1 different values"),
        (["ingest", "manifest", "date=2025/x.csv", "--out", "out"], "unknown key date"),
        (["ingest", "manifest", "date=2026/x.csv", "--out", "out", "classes.mood=[bad, good]"], "no column label_mood"),
        (["cohort", "show", "empty"], "has no cohort.json"),
        (["evaluate", "empty", "--cohort", "empty"], "holds neither bundle.json nor ensemble.json"),
        (["compare", "empty", "empty", "--cohort", "empty"], "holds neither bundle.json nor ensemble.json"),
        (["compare", "empty", "empty"], "Missing option '--cohort'"),
        (["train", "job.yaml", "add=nowhere"], "add = 'nowhere' is not allowed"),
        (["ingest", "feedback", "empty", "--out", "out"], "has no folder corrections"),
        (["predict", "empty", "empty"], "holds neither bundle.json nor ensemble.json"),
        (["explain", "empty", "empty", "--out", "out"], "holds neither bundle.json nor ensemble.json"),
        (["explain", "empty", "empty"], "Missing option '--out'"),
        (["explain", "empty", "empty", "--out", "out", "--method", "lime"], "unknown method 'lime'"),
        (["ensemble", "empty", "--out", "out"], "bundle.json does not exist"),
        (["serve", "x", "--port", "99999999"], "65535"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, monkeypatch, capsys, words: list[str], message: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    job = {"family": "classifier", "cohort": "empty", "out": "bundle", "network": {"weights": "none"}}
    (tmp_path / "job.yaml").write_text(json.dumps(job))
    (tmp_path / "date=2026").mkdir()
    (tmp_path / "date=2026" / "x.csv").write_text("path,patient_id,label_grade\na.png,1,only\n")
    code, _, err = call(*words, capsys=capsys)
    assert code == 2, err
    assert message in err
    lines = err.strip().splitlines()
    assert len([line for line in lines if line.startswith("error: ")]) == 1
    assert lines[-1].startswith("error: ")
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())


def test_sources_and_their_options(capsys) -> None:
    code, out, _ = call("sources", capsys=capsys)
    assert code == 0
    assert all(name in out for name in ("mura", "manifest", "phantom"))
    code, out, _ = call("sources", "phantom", "--json", capsys=capsys)
    assert code == 0
    patients = next(each for each in json.loads(out)["options"] if each["key"] == "patients")
    assert patients["type"] == "int"
    assert patients["default"] > 0
    code, out, _ = call("sources", "manifest", capsys=capsys)
    assert code == 0
    assert "annotations" in out


def test_families_as_json(capsys) -> None:
    code, out, _ = call("families", "--json", capsys=capsys)
    assert code == 0
    assert "classifier" in [row["name"] for row in json.loads(out)]
    code, out, _ = call("families", "classifier", "--json", capsys=capsys)
    rows = {row["key"]: row for row in json.loads(out)["settings"]}
    assert rows["loop.epochs"]["unit"] == "epochs"
    assert rows["optimizer.learning_rate"]["bounds"] == "> 0 and ≤ 10"


def test_help_and_mistakes_import_neither_torch_nor_ray() -> None:
    program = (
        "import sys; from mskray.cli import main\n"
        "try: main(['train', 'nowhere.yaml'])\n"
        "except SystemExit: print(sorted({'torch', 'ray'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_classes_of_a_task_are_given_as_words(tmp_path: Path, monkeypatch, capsys) -> None:
    given = {}
    monkeypatch.setattr("mskray.cohorts.ingest.ingest", lambda *each, **_: given.update(place=each[1], options=each[3]))
    monkeypatch.setattr("mskray.verbs.cohort.ingest_lines", str)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "date=2026").mkdir()
    words = ["ingest", "manifest", "date=2026", "--out", "out", "classes.kl_grade=[KL0, KL1]", "root=images"]
    code, _, err = call(*words, capsys=capsys)
    assert code == 0, err
    assert given == {"place": "date=2026", "options": {"classes": {"kl_grade": ["KL0", "KL1"]}, "root": "images"}}


@pytest.mark.parametrize(
    ("words", "target", "goes_on"),
    [
        (["ingest", "phantom", "--out", "out"], "mskray.cohorts.ingest.ingest", " where this one was"),
        (
            ["train", "job.yaml"],
            "mskray.config.read_yaml",
            " after its last checkpoint, or begins anew if there is none",
        ),
        (["cohort", "show", "out"], "mskray.verbs.cohort.show", ""),
        (["families"], "mskray.verbs.families.families_table", ""),
    ],
)
def test_ctrl_c_promises_only_what_holds(words: list[str], target: str, goes_on: str, monkeypatch, capsys) -> None:
    def interrupted(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(target, interrupted)
    code, _, err = call(*words, capsys=capsys)
    assert code == 130
    assert err.strip() == (f"stopped; the same command goes on{goes_on}" if goes_on else "stopped")
