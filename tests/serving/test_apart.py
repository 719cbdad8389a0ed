"""Members apart: each is loaded once, however few deployments they share; what cannot be explained is told alike."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from serving_samples import fitted
from test_study_reasons import ask
from test_vote_queue import study

from mskray.bundles import Bundle, save_bundle
from mskray.ensemble import join, save_ensemble
from mskray.families import Predictor
from mskray.serving import apart
from mskray.serving.apart import Loaded, RemoteExplainer, RemotePredictor, load_apart
from mskray.serving.members import VoteQueue
from mskray.storage import locate


class Deployed:
    """A handle of a deployment in this process."""

    def __init__(self) -> None:
        self._loaded, self.call = Loaded("cpu"), self

    def remote(self, *given: Any) -> "Answered":
        return Answered(self._loaded.call(*given))


class Answered:
    def __init__(self, value: Any) -> None:
        self._value = value

    def result(self, timeout_s: float) -> Any:
        return self._value


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The bundles that are loaded, in order."""
    found: list[str] = []
    load = apart.load_predictor

    def counted(uri: str, device: str) -> tuple[Bundle, Predictor]:
        found.append(uri)
        return load(uri, device)

    monkeypatch.setattr(apart, "load_predictor", counted)
    return found


@pytest.mark.parametrize("deployments", [1, 2, 3])
def test_each_member_is_loaded_once(deployments: int, loads: list[str], tmp_path: Path) -> None:
    for seed in range(3):
        save_bundle(fitted(seed, ("KNEE",)), locate(tmp_path / str(seed)), fingerprint=str(seed))
    members = [str(tmp_path / str(seed)) for seed in range(3)]
    save_ensemble(join(members, "three"), locate(tmp_path / "three"))
    handles: Any = [Deployed() for _ in range(deployments)]
    before, after = (VoteQueue(load_apart(uri, handles)) for uri in (members[0], str(tmp_path / "three")))
    for queue in (after, before, after, before):
        ask(queue, [(study(0, 1), ())])
    assert len(loads) == len(set(loads)) == 3


def test_what_cannot_be_explained_is_told_as_where_it_is_fused(
    ensemble_uri: str, monkeypatch: pytest.MonkeyPatch, loads: list[str]
) -> None:
    load: Callable[[str, str], tuple[Bundle, Predictor]] = apart.load_predictor

    def dumb(uri: str, device: str) -> tuple[Bundle, Any]:
        bundle, predictor = load(uri, device)
        return bundle, predictor if uri.endswith("first") else lambda images: predictor(images)

    monkeypatch.setattr(apart, "load_predictor", dumb)
    handles: Any = [Deployed()]
    voter = load_apart(ensemble_uri, handles)
    assert [type(each) for each in voter.predictors] == [RemoteExplainer, RemotePredictor]
    (answer,) = ask(VoteQueue(voter), [(study(0, 1), ["saliency"])])
    (doubt,) = answer.warnings
    assert doubt.message == "second: family classifier has no gradients to look into"
