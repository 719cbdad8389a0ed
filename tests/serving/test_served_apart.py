"""Everything that one server can answer, members in deployments of their own, over TLS: the same numbers; replicas
that are killed, and another ensemble, while it is asked."""

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray
from block_spine import BlockSpine
from certificates import self_signed
from disc_layouts import metaimage
from ray.util import list_named_actors
from serving_samples import TOKEN, encoded, radiograph

from mskray.client import Client
from mskray.ensemble import Voter, load
from mskray.errors import UserError
from mskray.families import Images
from mskray.imaging.decode import decode
from mskray.serving.pairs import PairReader
from mskray.serving.run import Place, start, stop
from mskray.serving.schemas.studies import DecodedView
from mskray.serving.settings import Certificate, Limits, Offer
from mskray.serving.tokens import TOKEN_VARIABLE
from mskray.verbs.predict_remote import TOKEN_VARIABLE as CLIENT_TOKEN
from mskray.verbs.roll_out import roll_out

pytestmark = pytest.mark.slow

PICTURES = [encoded(radiograph(seed, 64 + 8 * seed), "PNG") for seed in range(1, 7)]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    both = str(self_signed(tmp_path_factory.mktemp("tls") / "server.pem"))
    return Certificate(both, both)


@pytest.fixture(scope="module")
def url(
    ray_cluster: str,
    ensemble_uri: str,
    pair_uri: str,
    spine_uris: tuple[str, str],
    certificate: Certificate,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    grader, detector = spine_uris
    offer = Offer(ensemble=ensemble_uri, apart=2, pairs=pair_uri, spines=grader, vertebrae=detector)
    store = str(tmp_path_factory.mktemp("served") / "store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(TOKEN_VARIABLE, TOKEN)
        yield start(offer, Place(port=0, store=store, certificate=certificate), Limits())
    stop()


@pytest.fixture(scope="module")
def client(url: str, certificate: Certificate) -> Iterator[Client]:
    assert url.startswith("https://")
    with Client(url, TOKEN, verify=certificate.chain, attempts=8) as made:
        yield made


def test_everything_is_described(client: Client) -> None:
    models = client.models()
    assert models.served == ["studies", "pairs", "spines"]
    assert [member.serves for member in models.members] == ["studies", "studies", "pairs", "spines", "spines"]
    assert models.rollout is not None
    assert models.rollout.state == "served"


def test_members_apart_say_what_they_say_together(client: Client, voter: Voter) -> None:
    pixels = [decode(each).pixels for each in PICTURES]
    expected = voter(Images(pixels))
    answer = client.predict_study(PICTURES)
    said = np.array([list(view.probabilities.values()) for view in answer.views])
    # The last digits of a network's sums depend on the number of threads.
    np.testing.assert_allclose(said, expected.probabilities, atol=1e-5)
    for name, votes in expected.members.items():
        own = [list(view.members[name].values()) for view in answer.views]
        np.testing.assert_allclose(own, votes, atol=1e-5)


def test_members_apart_explain(client: Client) -> None:
    answer = client.predict_study(PICTURES[:1], explain=["grad_cam"], arrays=True)
    (view,) = answer.views
    assert [each.member for each in view.overlays] == ["first", "second"]
    for each in view.overlays:
        assert np.max(each.array) == 255
        assert (each.width, each.height) == (view.columns, view.rows)


def test_pairs_are_judged(client: Client, pair_uri: str) -> None:
    before, after = (DecodedView(0, None, "png", decode(each).pixels, "") for each in PICTURES[:2])
    expected = PairReader(load(pair_uri)).vote(before, after)
    assert client.predict_pair(*PICTURES[:2]).pair == expected.pair


def test_spines_are_read(client: Client, tmp_path: Path) -> None:
    metaimage(tmp_path / "spine.mha", BlockSpine(shape=(9, 200, 160)).volume)
    answer = client.read_spine([tmp_path / "spine.mha"])
    assert (answer.volume.slices, answer.bodies, answer.discs) == (9, [], [])
    assert [warning.code for warning in answer.warnings] == ["no-spine"]


class Asking(threading.Thread):
    """Asks again and again until it is told to stop; `wrong` are answers that no ensemble gives, and errors."""

    def __init__(self, client: Client, known: dict[str, list[float]]) -> None:
        super().__init__(daemon=True)
        self._client, self._known, self._stop_asking = client, known, threading.Event()
        self.models: list[str] = []
        self.wrong: list[str] = []

    def run(self) -> None:
        while not self._stop_asking.is_set():
            try:
                answer = self._client.predict_study(PICTURES[:1])
            except UserError as error:
                self.wrong.append(str(error))
                continue
            self.models.append(answer.model.name)
            if list(answer.study.probabilities.values()) != pytest.approx(self._known[answer.model.name], abs=1e-5):
                self.wrong.append(f"{answer.model.name}: {answer.study.probabilities}")

    def __enter__(self) -> "Asking":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_asking.set()
        self.join(timeout=60)


@pytest.fixture(scope="module")
def known(voter: Voter, ensemble_uri: str) -> dict[str, list[float]]:
    """The right answer to the first picture, by ensemble."""
    images = Images([decode(PICTURES[0]).pixels])
    alone = load(str(Path(ensemble_uri).parent / "first"))
    return {"knees": voter(images).probabilities[0].tolist(), "first": alone(images).probabilities[0].tolist()}


def test_another_ensemble_answers_without_a_failed_request(
    client: Client,
    url: str,
    certificate: Certificate,
    ensemble_uri: str,
    known: dict[str, list[float]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(CLIENT_TOKEN, TOKEN)
    with Asking(client, known) as asking:
        for name, uri in (("first", str(Path(ensemble_uri).parent / "first")), ("knees", ensemble_uri)):
            before, now = roll_out(uri, url, trust=certificate.chain, longest_s=60)
            assert now.startswith(name)
            assert before != now
    assert not asking.wrong
    assert set(asking.models) == {"knees", "first"}
    assert client.predict_study(PICTURES[:1]).model.name == "knees"
    with pytest.raises(UserError, match=r"answered 422: body\.ensemble: .* holds neither") as raised:
        roll_out(ensemble_uri + "-none", url, trust=certificate.chain)
    assert "\n" not in str(raised.value)


@pytest.mark.usefixtures("by_value")
@pytest.mark.parametrize("name", ["Members", "Member-1"])
def test_a_replica_is_killed(client: Client, known: dict[str, list[float]], name: str) -> None:
    with Asking(client, known) as asking:
        before = pid_of(name)
        os.kill(before, signal.SIGKILL)
        client.predict_study(PICTURES[:1])
        answered = len(asking.models)
        while len(asking.models) < answered + 3 and not asking.wrong:
            asking.join(0.05)
    assert not asking.wrong
    assert pid_of(name) != before


def pid_of(deployment: str) -> int:
    """The process of a deployment's one replica."""
    prefix = f"SERVE_REPLICA::mskray#{deployment}#"
    (name,) = [each["name"] for each in list_named_actors(all_namespaces=True) if each["name"].startswith(prefix)]
    replica = ray.get_actor(name, namespace="serve")
    return int(ray.get(replica.__ray_call__.remote(lambda _: os.getpid()), timeout=60))
