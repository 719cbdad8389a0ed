"""What the verbs refuse before any work, without a cluster; each leaves everything as it was."""

import json
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
import ray
from small_pairs import fitted as pair_bundle

from mskray import ensemble
from mskray.bundles import DESCRIPTION, WEIGHTS, Fitted, save_bundle
from mskray.cohorts import open_cohort, schema
from mskray.cohorts.views import AS_IS
from mskray.errors import UserError
from mskray.families import families, family
from mskray.families.classifier import ClassifierConfig, ClassifierRecipe
from mskray.progress import Progress
from mskray.serving.members import VoteQueue
from mskray.serving.run import Place, serve_forever
from mskray.serving.settings import Offer
from mskray.storage import locate
from mskray.training.run import Run
from mskray.verbs import train as train_verb
from mskray.verbs.compare import compare_models
from mskray.verbs.ensemble import judged, make_ensemble
from mskray.verbs.evaluate import evaluate_model
from mskray.verbs.papers import reproduce
from mskray.verbs.predict import predict
from mskray.verbs.remove_flags import remove_flags
from mskray.verbs.train import parse_job, train

CLASSES = ("normal", "abnormal")


def cohort(folder: Path, *tasks: schema.Task, kind: str = "radiograph", abnormal: int = 1) -> str:
    """Describe a cohort whose shards nobody will read, with two images a split, `abnormal` of them abnormal."""
    labels = {"abnormality": {"normal": 2 - abnormal, "abnormal": abnormal}}
    split = schema.SplitCount(images=2, studies=2, patients=2, labels=labels)
    names = ("train", "validation", "test")
    manifest = schema.Manifest(
        kind=kind,
        source="phantom",
        source_options={},
        tasks=tasks,
        image=schema.ImageFormat(size=64, dtype="uint8", fit="pad"),
        masks=False,
        split=schema.SplitMethod(method="source", seed=0, fractions=None),
        counts=schema.Counts(listed=6, images=6, quarantined=0, splits=dict.fromkeys(names, split)),
        shards=(),
        hash_key_fingerprint="0",
        content_hash="ab" * 32,
        created_by="test",
    )
    locate(folder).join(schema.MANIFEST).write_json(manifest.model_dump(mode="json"))
    return str(folder)


def fitted() -> Fitted:
    config = ClassifierConfig.model_validate(
        {"network": {"backbone": "mobilenet_v3_small", "weights": "none"}, "data": {"image_size": 64}}
    )
    entry = {"epoch": 1, "val_auroc": 0.7, "score": 0.7}
    return Fitted(
        family="classifier",
        config=config.model_dump(mode="json"),
        task="abnormality",
        classes=CLASSES,
        kind="radiograph",
        body_parts=("HAND",),
        image={"size": 64, "dtype": "uint8", "fit": "pad"},
        state=ClassifierRecipe(config, 2).initial_state(),
        history=[entry],
        best=entry,
        labels={"normal": 3, "abnormal": 1},
        cohort={"uri": "s3://bucket/cohort", "content_hash": "ab" * 32},
    )


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    save_bundle(fitted(), locate(tmp_path / "bundle"), "f00")
    return tmp_path / "bundle"


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args, **kwargs) -> None:
        pytest.fail("a cluster was started")

    monkeypatch.setattr(ray, "init", refuse)


def refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("classes", [("abnormal", "normal"), ("normal", "abnormal", "unclear")])
def test_a_cohort_of_other_classes_is_refused(tmp_path: Path, bundle: Path, classes: tuple[str, ...]) -> None:
    uri = cohort(tmp_path / "cohort", schema.Task(name="abnormality", classes=classes))
    message = f"its classes are {', '.join(classes)}, those of the model are normal, abnormal"
    refused(lambda: evaluate_model(str(bundle), uri, "test"), message)
    refused(lambda: make_ensemble([str(bundle)], str(tmp_path / "out"), calibrate=uri), message)
    assert not (bundle / "evaluation").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-1] + b"x"), "does not match the hash"),
        (lambda f: (f / WEIGHTS).unlink(), "weights.safetensors"),
    ],
)
def test_damaged_weights_are_refused(tmp_path: Path, bundle: Path, damage, message: str) -> None:
    uri = cohort(tmp_path / "cohort", schema.ABNORMALITY)
    damage(bundle)
    refused(lambda: evaluate_model(str(bundle), uri, "test"), message)
    refused(lambda: make_ensemble([str(bundle)], str(tmp_path / "out"), calibrate=uri), message)


def test_an_ensemble_that_was_there_outlives_a_mistyped_cohort(tmp_path: Path, bundle: Path) -> None:
    make_ensemble([str(bundle)], str(tmp_path / "out"))
    before = (tmp_path / "out" / ensemble.DESCRIPTION).read_bytes()
    refused(
        lambda: make_ensemble([str(bundle)], str(tmp_path / "out"), weights=[2.0], calibrate=str(tmp_path / "knes")),
        "knes",
    )
    assert (tmp_path / "out" / ensemble.DESCRIPTION).read_bytes() == before


def test_an_ensemble_does_not_go_into_the_folder_of_a_bundle(bundle: Path) -> None:
    refused(lambda: make_ensemble([str(bundle)], str(bundle)), "holds a bundle: give the ensemble a folder of its own")
    assert not (bundle / ensemble.DESCRIPTION).exists()


def test_what_is_no_radiograph_has_no_flags_and_is_not_served(tmp_path: Path, bundle: Path) -> None:
    save_bundle(pair_bundle(), locate(tmp_path / "bovw"), "f01")
    uri = cohort(tmp_path / "cohort", schema.ABNORMALITY, kind="pair")
    removed = "flags are removed from radiographs alone"
    refused(lambda: make_ensemble([str(tmp_path / "bovw")], str(tmp_path / "e"), remove_flags=str(bundle)), removed)
    refused(lambda: remove_flags(str(bundle), uri, str(tmp_path / "out")), removed)
    refused(lambda: VoteQueue(ensemble.load(tmp_path / "bovw")), "bovw reads pairs: .* for radiographs can be served")


def test_nothing_is_predicted_where_nothing_is(tmp_path: Path, bundle: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused(lambda: predict(str(bundle), str(tmp_path / "empty"), str(tmp_path / "p.parquet")), "holds no files")
    uri = cohort(tmp_path / "cohort", schema.ABNORMALITY)
    there = "has no split 'valid': it has train, validation, test"
    refused(lambda: predict(str(bundle), uri, str(tmp_path / "p.parquet"), split="valid"), there)
    assert not (tmp_path / "p.parquet").exists()


def test_a_port_in_use_is_refused_before_anything_starts(bundle: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused(
            lambda: serve_forever(Offer(ensemble=str(bundle)), Place(port=port)),
            f"cannot listen on 127.0.0.1 port {port}",
        )


def test_what_could_not_be_judged_is_not_calibrated_on() -> None:
    said: list[Progress] = []
    table = pa.table({"label": [0, 1, 1], "prob_a": [0.5, None, 0.2], "error": [None, "no key point", None]})
    assert judged(table, said.append)["prob_a"].to_pylist() == [0.5, 0.2]
    assert [each.stage for each in said] == ["1 of 3 labelled images could not be judged: calibrated without them"]
    assert len(judged(table.slice(0, 0))) == 0


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_a_weight_is_a_positive_number(tmp_path: Path, bundle: Path, weight: float) -> None:
    refused(lambda: make_ensemble([str(bundle)], str(tmp_path / "out"), weights=[weight]), "give a positive number")


def test_too_few_resamples_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    refused(lambda: evaluate_model(str(tmp_path), str(tmp_path), "test", resamples=50), "50 bootstrap resamples")


def test_a_table_is_refused_before_its_first_training(tmp_path: Path) -> None:
    """The first of its presets can learn from a cohort of 64 px, the second cannot."""
    uri, results = cohort(tmp_path / "cohort", schema.ABNORMALITY), tmp_path / "results"
    for preset, name in {"mura-vgg19": "classifier", "mura-vgg19-rescaled": "kalm"}.items():
        locate(tmp_path).join("configs", f"{preset}.yaml").write_json({"family": name})
    refused(
        lambda: reproduce("zhaw-1", uri, str(results), str(tmp_path / "configs")),
        "mura-vgg19-rescaled: .*holds 64 px, nothing finer for kalm",
    )
    assert not list(tmp_path.rglob(DESCRIPTION))
    locate(tmp_path).join("configs", "mura-vgg19-rescaled.yaml").write_json({"family": "kalm", "locl": {}})
    refused(lambda: reproduce("zhaw-1", uri, str(results), str(tmp_path / "configs")), "rescaled.yaml.*locl")


def test_a_cohort_of_one_split_has_no_strangers(tiny_cohort) -> None:
    """A zoom that learns nothing takes it; only its answers are judged."""
    reports: list = []
    train_verb._tell_of_strangers(tiny_cohort((schema.ABNORMALITY,), [{"abnormality": 1}]), reports.append)
    assert reports == []


def job(tmp_path: Path, uri: str) -> dict:
    return {
        "family": "classifier",
        "cohort": uri,
        "out": str(tmp_path / "out"),
        "network": {"backbone": "mobilenet_v3_small", "weights": "none"},
    }


def test_a_cohort_without_tasks_cannot_be_learnt_from(tmp_path: Path) -> None:
    data = job(tmp_path, cohort(tmp_path / "cohort"))
    refused(lambda: train(*parse_job(data, "test")), "has no task to learn")


@pytest.mark.parametrize("name", families())
def test_a_cohort_of_another_kind_is_refused(tmp_path: Path, name: str) -> None:
    opened = open_cohort(cohort(tmp_path / "cohort", schema.ABNORMALITY, kind="film"), check=False)
    refused(
        lambda: family(name).check(opened, None, schema.ABNORMALITY),
        f"family {name} reads {' or '.join(family(name).kinds)} cohorts, .* holds films",
    )


@pytest.mark.parametrize(("abnormal", "there"), [(0, "normal"), (2, "abnormal")])
def test_one_class_cannot_be_learnt(tmp_path: Path, abnormal: int, there: str) -> None:
    data = job(tmp_path, cohort(tmp_path / "cohort", schema.ABNORMALITY, abnormal=abnormal))
    refused(
        lambda: train(*parse_job(data, "test")),
        f"split train: task abnormality needs .* two classes .* it has {there}: ingest more patients",
    )


@pytest.mark.parametrize("name", [name for name, chosen in families().items() if chosen.learns])
def test_nothing_is_added_to_what_has_more_than_one_label_an_image(tmp_path: Path, name: str) -> None:
    data = {"family": name, "cohort": cohort(tmp_path / "cohort"), "out": str(tmp_path / "out"), "add": ["more"]}
    parsed, chosen, config = parse_job(data, "test")
    with pytest.raises(UserError, match=f"family {name} learns {chosen.learns}: --add replaces one label"):
        train(parsed, chosen, config)


def test_models_of_other_tasks_are_not_compared(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    save_bundle(fitted(), locate(one), "f00")
    save_bundle(replace(fitted(), task="fracture"), locate(other), "f01")
    given = cohort(tmp_path / "cohort", schema.ABNORMALITY)
    with pytest.raises(UserError, match="compare models of the same task"):
        compare_models(str(one), str(other), given, "test")
    learned = replace(fitted(), cohort={"uri": given, "content_hash": "ab" * 32})
    save_bundle(learned, locate(tmp_path / "learned"), "f02")
    with pytest.raises(UserError, match="learned from train of"):
        compare_models(str(one), str(tmp_path / "learned"), given, "train")


class Listener:
    def __init__(self, fails: bool = False) -> None:
        self.fails, self.heard = fails, []

    def epoch(self, event: dict) -> None: ...

    def finish(self, tags: dict) -> None:
        self._hear("finish")

    def abandon(self) -> None:
        self._hear("abandon")

    def _hear(self, what: str) -> None:
        self.heard.append(what)
        if self.fails:
            raise ConnectionError("the server\nis down")


@pytest.fixture
def fitting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run `_train` with a family whose fit is a function of the run; gives (call, listeners, reports, out)."""
    listeners, reports, out = (Listener(fails=True), Listener()), [], tmp_path / "out"
    monkeypatch.setattr(train_verb, "trackers", lambda *args: listeners)

    def call(fit: Callable[[Run], Fitted]) -> object:
        class Family:
            name, Config = "classifier", ClassifierConfig

            def fit(self, cohort, config, run: Run) -> Fitted:
                return fit(run)

        parsed, _, config = parse_job(job(tmp_path, "unused"), "test")
        opened = type("Opened", (), {"location": "here", "view": AS_IS})()
        return train_verb._train(
            parsed, Family(), config, opened, schema.ABNORMALITY, locate(out), "f00", reports.append
        )

    return call, listeners, reports, out


def checkpoint(run: Run) -> None:
    run.location.join(run.name, "checkpoint", "weights").write_bytes(b"1")


def test_a_finished_run_outlives_its_tracking_server_and_deletes_its_own_checkpoints_only(fitting) -> None:
    call, listeners, reports, out = fitting
    (out / "run" / "other" / "checkpoint").mkdir(parents=True)

    def fit(run: Run) -> Fitted:
        checkpoint(run)
        return fitted()

    call(fit)
    assert (out / DESCRIPTION).is_file()
    assert [each.name for each in (out / "run").iterdir()] == ["other"]
    assert [each.heard for each in listeners] == [["finish"], ["finish"]]
    assert [str(each) for each in reports] == ["tracking failed (Listener): the server is down"]


def test_the_folder_of_runs_goes_with_the_last_of_them(fitting) -> None:
    call, _, _, out = fitting

    def fit(run: Run) -> Fitted:
        checkpoint(run)
        return fitted()

    call(fit)
    assert not (out / "run").exists()


def test_a_refused_run_is_abandoned_and_keeps_its_checkpoints(fitting) -> None:
    call, listeners, _, out = fitting

    def fit(run: Run) -> Fitted:
        checkpoint(run)
        raise UserError("no")

    refused(lambda: call(fit), "no")
    assert [each.heard for each in listeners] == [["abandon"], ["abandon"]]
    assert (out / "run" / "f00" / "checkpoint").is_dir()


def test_a_bundle_of_another_job_that_appeared_meanwhile_is_not_overwritten(fitting) -> None:
    call, listeners, _, out = fitting

    def fit(run: Run) -> Fitted:
        save_bundle(fitted(), locate(out), "another")
        return fitted()

    refused(lambda: call(fit), "already holds a bundle of another job")
    assert json.loads((out / DESCRIPTION).read_text())["fingerprint"] == "another"
    assert listeners[1].heard == ["abandon"]


def test_feature_svm_needs_images_of_every_class(tmp_path: Path) -> None:
    grades = schema.Task(name="abnormality", classes=(*CLASSES, "implant"))
    job = {"family": "feature_svm", "cohort": cohort(tmp_path / "cohort", grades), "out": str(tmp_path / "out")}
    with pytest.raises(UserError, match=r"split train: no image of implant \(task abnormality\)"):
        train(*parse_job(job, "test"))
