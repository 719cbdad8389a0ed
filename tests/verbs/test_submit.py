"""Jobs: what is sent, what is refused here, whom a token is shown, and how a job is followed to its end."""

import io
import json
import os
import shlex
import socket
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from dashboard_stand_in import Dashboard, job, serving
from ray.dashboard.modules.job.pydantic_models import JobDetails

from mskray.cli import main
from mskray.cluster import doors
from mskray.errors import UserError
from mskray.verbs.submit import Submission, find, jobs_table, stop, submit
from mskray.verbs.submit_client import connect
from mskray.verbs.submit_follow import exit_code
from mskray.verbs.submit_words import Given, read_words

CONFIG = "family: classifier\ncohort: s3://msk/cohorts/knees\nout: bundles/knees\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the command is given: a config, a cohort, and a folder of an unlucky name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "knee.yaml").write_text(CONFIG)
    for folder in ("cohorts", "test", "train"):
        (tmp_path / folder).mkdir()
    (tmp_path / "studies.csv").write_text("path,patient_id\n")
    return tmp_path


@pytest.fixture
def serve() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What `mskray submit` says, in one line, before it asks anybody."""
    with pytest.raises(SystemExit) as ended:
        main(["submit", "--address", "http://127.0.0.1:1", *words])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("serve s3://msk/ensembles/ab", "serve cannot be submitted: give one of compare, "),
        ("trian configs/knee.yaml", "did you mean train?"),
        ("train configs/knee.yaml", "out=bundles/knees would be lost"),
        ("train configs/knee.yaml out=bundles/other", "out=bundles/other would be lost"),
        ("train configs/knee.yaml out=s3://msk/b cohort=cohorts", "cohort=cohorts is on this machine"),
        ("train configs/knee.yaml out=s3://msk/b --ad x", "No such option: --ad"),
        ("train configs/knee.yaml out=s3://msk/b --local", "leave it out of what is submitted"),
        ("evaluate s3://msk/b --cohort cohorts", "cohorts is on this machine, and the job runs on the cluster's"),
        ("evaluate s3://msk/b --cohort s3://msk/c --out report", "--out report would be lost"),
        ("tune promote s3://msk/search --out bundles/best", "--out bundles/best would be lost"),
        ("predict s3://msk/b s3://msk/images", "--out predictions.parquet would be lost"),
        ("ingest manifest studies.csv --out s3://msk/c", "studies.csv is on this machine"),
        ("ingest manifest s3://msk/a.csv --out s3://msk/c --names ~/names.csv", "--names ~/names.csv would be lost"),
        ("evaluate http://me:secret@host/b --cohort s3://msk/c", "the command line holds what looks like a secret"),
        ("ingest mura s3://msk/m --out s3://msk/c secret_access_key=abc", "holds what looks like a secret"),
        ("ingest mura s3://AKIAIOSFODNN7EXAMPLE/m --out s3://msk/c", "holds what looks like a secret"),
        ("evaluate 'https://h/b?X-Amz-Signature=0a' --cohort s3://msk/c", "holds what looks like a secret"),
    ],
)
def test_what_would_not_do(here: Path, words: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said in refused(shlex.split(words), capsys)


def test_a_config_with_a_secret_stays_here(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "configs" / "knee.yaml").write_text(CONFIG.replace("bundles", "s3://msk") + "password: 'abc'\n")
    line = refused(["train", "configs/knee.yaml"], capsys)
    assert "configs/knee.yaml holds what looks like a secret" in line
    assert "abc" not in line


@pytest.mark.parametrize(
    ("verb", "words", "params", "sent", "files"),
    [
        (
            "train",
            "configs/knee.yaml out=s3://msk/b loop.epochs=2",
            {"config": "configs/knee.yaml"},
            ["configs/knee.yaml", "out=s3://msk/b", "loop.epochs=2"],
            ["configs/knee.yaml"],
        ),
        (
            "evaluate",
            "s3://msk/b --cohort s3://msk/c --split test",
            {"model": "s3://msk/b", "cohort": "s3://msk/c", "split": "test"},
            ["s3://msk/b", "--cohort", "s3://msk/c", "--split", "test"],
            [],
        ),
        ("ingest", "mura /mnt/shared/m --out /mnt/c", {"words": ["/mnt/shared/m"], "out": "/mnt/c"}, None, []),
        (
            "reproduce",
            "kalm-1 --cohort s3://msk/c --results s3://msk/r --configs configs",
            {"table": "kalm-1", "cohort": "s3://msk/c", "results": "s3://msk/r", "configs": "configs"},
            None,
            ["configs/knee.yaml"],
        ),
    ],
)
def test_what_is_sent(
    here: Path, verb: str, words: str, params: dict[str, object], sent: list[str] | None, files: list[str]
) -> None:
    given = read_words(verb, words.split(), params)
    assert list(given.words) == (words.split() if sent is None else sent)
    assert list(given.files) == files


def test_a_config_from_elsewhere_has_a_name_of_its_own(here: Path) -> None:
    given = read_words("train", [str(here / "configs" / "knee.yaml"), "out=s3://msk/b"], {})
    (name,) = given.files
    assert name.startswith("given/")
    assert name.endswith("/knee.yaml")
    assert given.words[0] == name
    assert given.files[name] == CONFIG.encode()


def test_a_job_is_named_by_what_it_does() -> None:
    def named(verb: str = "train", words: tuple[str, ...] = ("a.yaml",), content: bytes = b"1", **more: bool) -> str:
        return Submission(verb, Given(words, {"a.yaml": content}), **more).identifier

    assert named() == named()
    assert named().startswith("mskray-train-")
    assert (
        len({named(), named("tune"), named(words=("a.yaml", "x=1")), named(content=b"2"), named(send_code=True)}) == 5
    )


def test_the_command_keeps_its_words_apart() -> None:
    words = ("a.yaml", "task=it's one; rm -rf /", "$HOME")
    assert shlex.split(Submission("train", Given(words, {})).entrypoint)[4:] == list(words)


def test_the_code_goes_along(tmp_path: Path) -> None:
    with Submission("train", Given((), {"a/b.yaml": b"1"}), send_code=True).folder() as folder:
        assert Path(folder, "mskray", "cli", "__main__.py").is_file()
        assert Path(folder, "a", "b.yaml").read_bytes() == b"1"
        assert not list(Path(folder).rglob("__pycache__"))
    assert not Path(folder).exists()


@pytest.mark.parametrize(
    ("status", "code", "exits"),
    [
        ("SUCCEEDED", 0, 0),
        ("FAILED", 2, 2),
        ("FAILED", -9, 137),
        ("FAILED", 143, 143),
        ("FAILED", None, 1),
        ("STOPPED", None, 143),
    ],
)
def test_exit_codes(status: str, code: int | None, exits: int) -> None:
    assert exit_code(JobDetails(**job("a", status, driver_exit_code=code))) == exits


def test_a_token_is_shown_to_who_asks_for_it(serve: ExitStack) -> None:
    url = serve.enter_context(serving(Dashboard(token=os.environ["RAY_AUTH_TOKEN"])))
    assert connect(url).all() == []


@pytest.mark.parametrize(
    ("dashboard", "said"),
    [
        (Dashboard(token="another"), "does not accept the token of RAY_AUTH_TOKEN"),
        (Dashboard(ray_version="2.9.3"), "runs Ray 2.9.3, mskray here needs Ray 2.60"),
        (Dashboard(ray_version=""), "is no Ray dashboard"),
    ],
)
def test_dashboards_that_do_not_do(serve: ExitStack, dashboard: Dashboard, said: str) -> None:
    url = serve.enter_context(serving(dashboard))
    with pytest.raises(UserError, match=said) as raised:
        connect(url)
    assert os.environ["RAY_AUTH_TOKEN"] not in str(raised.value)


def test_an_open_dashboard_that_others_reach(serve: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    url = serve.enter_context(serving(Dashboard()))
    connect(url)
    monkeypatch.setattr(doors, "is_loopback", lambda host: False)
    with pytest.raises(UserError, match=f"anyone who reaches {url} can run code there: it asks for no token"):
        connect(url)
    monkeypatch.setenv("MSKRAY_OPEN_CLUSTER", "allowed")
    connect(url)


def test_a_token_in_the_clear_is_warned_of(serve: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    url = serve.enter_context(serving(Dashboard(token=os.environ["RAY_AUTH_TOKEN"])))
    monkeypatch.setattr(doors, "is_loopback", lambda host: False)
    said: list[str] = []
    connect(url, lambda progress: said.append(str(progress)))
    assert said == [f"warning: the token goes to {url} in the clear: use https, or a tunnel"]


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("ray://10.0.0.1:10001", "jobs go to the dashboard, --address http://10.0.0.1:8265"),
        ("10.0.0.1:6379", "give --address http://10.0.0.1:8265"),
        ("http://me:word@10.0.0.1:8265", "the address holds a name or password"),
    ],
)
def test_addresses_that_are_none(address: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        connect(address)


def test_tls_where_there_is_none(serve: ExitStack) -> None:
    url = serve.enter_context(serving(Dashboard()))
    with pytest.raises(UserError, match="speaks no TLS: give http://"):
        connect(url.replace("http:", "https:"))


def test_the_given_address_goes_before_that_of_the_environment(
    serve: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = serve.enter_context(serving(Dashboard(jobs={"a": job("a", "RUNNING")})))
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")
    assert [each.submission_id for each in connect(url).all()] == ["a"]
    assert os.environ["RAY_ADDRESS"] == "http://127.0.0.1:1"
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", url)
    assert connect(None).url == url


def train_job() -> Submission:
    return Submission("train", Given(("a.yaml", "out=s3://msk/b"), {"a.yaml": CONFIG.encode()}))


def test_a_job_is_begun_once_and_found_again(serve: ExitStack) -> None:
    dashboard = Dashboard(away=2)
    jobs = connect(serve.enter_context(serving(dashboard)))
    name = submit(jobs, train_job())
    assert name == train_job().identifier
    assert submit(jobs, train_job()) == name
    (asked,) = dashboard.asked
    assert asked["entrypoint"] == "python -m mskray.cli train a.yaml out=s3://msk/b"
    assert asked["metadata"] == {"mskray": asked["metadata"]["mskray"], "verb": "train", "code": "the nodes'"}
    (package,) = dashboard.packages.values()
    with zipfile.ZipFile(io.BytesIO(package)) as sent:
        assert sorted(sent.namelist()) == ["a.yaml", "submitted.json"]
    assert os.environ["RAY_AUTH_TOKEN"] not in json.dumps(asked) + package.decode("latin1")


def test_a_key_that_stays_here_is_told(serve: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs, said = connect(serve.enter_context(serving(Dashboard()))), list[str]()
    monkeypatch.setenv("MSKRAY_HASH_KEY", "k" * 32)
    submit(jobs, Submission("ingest", Given(("phantom", "--out=s3://msk/c"), {})), lambda each: said.append(each.stage))
    assert said[-1] == "MSKRAY_HASH_KEY is not sent with a job: identifiers are hashed with the nodes' own key"


@pytest.mark.parametrize(
    ("ended", "said"),
    [
        ({"status": "FAILED", "driver_exit_code": 1}, "ended badly (exit code 1): beginning anew as"),
        ({"status": "STOPPED"}, "was stopped: beginning anew as"),
        ({"status": "SUCCEEDED"}, "has ended well: beginning anew as"),
    ],
)
def test_what_has_ended_begins_anew(serve: ExitStack, ended: dict[str, object], said: str) -> None:
    first = train_job().identifier
    known = {first: job(first, "FAILED", driver_exit_code=1), f"{first}-2": job(f"{first}-2", "x") | ended}
    jobs = connect(serve.enter_context(serving(Dashboard(jobs=known))))
    told: list[str] = []
    assert submit(jobs, train_job(), lambda progress: told.append(str(progress))) == f"{first}-3"
    assert f"{first}-2 {said} {first}-3" in told[0]


def test_stopping_and_listing(serve: ExitStack, capsys: pytest.CaptureFixture[str]) -> None:
    dashboard = Dashboard(jobs={"mskray-train-1": job("mskray-train-1", "RUNNING", metadata={"verb": "train"})})
    url = serve.enter_context(serving(dashboard))
    jobs = connect(url)
    assert [word for word in jobs_table(jobs).splitlines()[1].split() if word in ("mskray-train-1", "running")]
    assert stop(jobs, "mskray-train-1") == "mskray-train-1 was stopped"
    assert stop(jobs, "mskray-train-1") == "mskray-train-1 was stopped"
    with pytest.raises(UserError, match=r"knows no job mskray-train-2: did you mean mskray-train-1\?"):
        find(jobs, "mskray-train-2")
    with pytest.raises(SystemExit) as ended:
        main(["jobs", "follow", "--address", url, "mskray-train-1"])
    assert ended.value.code == 143
    assert capsys.readouterr().out == "one\ntwo\nthree\n"


def test_where_no_dashboard_is() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(UserError, match=f"no dashboard answers at http://127.0.0.1:{port}: start the head"):
        connect(f"http://127.0.0.1:{port}")
