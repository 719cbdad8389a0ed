"""Another ensemble while a server runs: every replica has it or says why not, and one that begins again finds it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from mskray.ensemble import describe, join, load, save_ensemble
from mskray.errors import Fault, UserError
from mskray.serving.answers import ensemble_hash
from mskray.serving.members import VoteQueue
from mskray.serving.rolling import Rolling
from mskray.serving.rollouts import Rollouts
from mskray.storage import locate


def loaded(uri: str) -> VoteQueue:
    return VoteQueue(load(uri))


@pytest.fixture
def first(ensemble_uri: str) -> str:
    return str(Path(ensemble_uri).parent / "first")


@pytest.fixture
def began(ensemble_uri: str, tmp_path: Path) -> Callable[..., Rolling]:
    """Make a replica; all of a test share a store."""

    def make(replica: str = "a", ensemble: str = ensemble_uri, load: Callable[[str], VoteQueue] = loaded) -> Rolling:
        return Rolling(ensemble, load, Rollouts(locate(tmp_path / "store"), ensemble), replica)

    return make


def answers_by(replica: Rolling) -> str:
    return replica.queue.described.ensemble.name


def test_it_is_served_when_every_replica_has_it(began: Callable[..., Rolling], first: str) -> None:
    one, other = began("a"), began("b")
    begun = one.roll_out(first)
    assert (begun.state, begun.hash) == ("loading", ensemble_hash(describe(first)))
    one.look()
    assert (answers_by(one), one.rollout.state) == ("first", "loading"), "the other one has not looked yet"
    assert answers_by(other) == "knees"
    other.look()
    one.look()
    assert one.rollout == other.rollout == begun.model_copy(update={"state": "served"})


def test_a_replica_that_begins_finds_it(began: Callable[..., Rolling], first: str) -> None:
    begun = began("a").roll_out(first)
    again = began("b")
    assert (answers_by(again), again.rollout.id) == ("first", begun.id)


def test_a_replica_that_has_gone_is_not_waited_for(tmp_path: Path, first: str) -> None:
    now = [0.0]
    rollouts = Rollouts(locate(tmp_path), first, lambda: now[0])
    wanted = rollouts.want(first, "hash")
    rollouts.say("gone", wanted.said("loading"))
    assert rollouts.together(wanted).state == "loading"
    now[0] = 61.0
    rollouts.say("here", wanted.said("served"))
    assert rollouts.together(wanted).state == "served"
    assert not list(tmp_path.rglob("gone.json"))


@pytest.mark.parametrize("error", [Fault("the store is away"), MemoryError()])
def test_what_may_pass_is_tried_again(began: Callable[..., Rolling], first: str, error: Exception) -> None:
    away = [True]

    def load_later(uri: str) -> VoteQueue:
        if away[0] and uri.endswith("/first"):
            raise error
        return loaded(uri)

    replica = began("a", load=load_later)
    replica.roll_out(first)
    with pytest.raises(type(error)):
        replica.look()
    assert (answers_by(replica), replica.rollout.state) == ("knees", "loading")
    with pytest.raises(type(error)):
        began("b", load=load_later)  # and not by the ensemble before
    away[0] = False
    replica.look()
    assert answers_by(replica) == "first"


def test_an_ensemble_that_is_at_fault_is_refused_until_there_is_another(
    began: Callable[..., Rolling], ensemble_uri: str, first: str, tmp_path: Path
) -> None:
    bad = tmp_path / "bad"
    described = describe(ensemble_uri)
    members = (described.members[0].model_copy(update={"hash": "0" * 64}), *described.members[1:])
    save_ensemble(described.model_copy(update={"members": members}), locate(bad))
    replica, other = began("a"), began("b")
    replica.roll_out(str(bad))
    replica.look()
    other.look()
    for each in (replica, other, began("c")):
        assert (answers_by(each), each.rollout.state) == ("knees", "refused")
        assert "has changed since the ensemble was made" in str(each.rollout.reason)
    replica.roll_out(first)
    replica.look()
    assert answers_by(replica) == "first"


def test_another_content_at_the_same_place_is_another_ensemble(
    began: Callable[..., Rolling], ensemble_uri: str, first: str, tmp_path: Path
) -> None:
    place, replica = tmp_path / "moving", began("a")
    save_ensemble(describe(ensemble_uri), locate(place))
    for made in (describe(ensemble_uri), join([first], "alone")):
        save_ensemble(made, locate(place))
        begun = replica.roll_out(str(place))
        replica.look()
        assert replica.queue.described.ensemble.hash == begun.hash == ensemble_hash(made)
        assert replica.rollout.state == "served"
    save_ensemble(describe(ensemble_uri), locate(place))
    assert "has changed since it was rolled out" in str(began("b").rollout.reason)


def test_servers_that_share_a_store_change_alone(
    began: Callable[..., Rolling], ensemble_uri: str, first: str, tmp_path: Path
) -> None:
    second = str(Path(first).parent / "second")
    knees, other = began("a"), began("b", second)
    knees.roll_out(first)
    for each in (knees, other):
        each.look()
    assert (answers_by(knees), answers_by(other)) == ("first", "second")
    Rollouts(locate(tmp_path / "store"), second).clear()
    assert answers_by(began("c")) == "first"


def test_another_question_is_refused(began: Callable[..., Rolling], ensemble_uri: str, tmp_path: Path) -> None:
    other = describe(ensemble_uri).model_copy(update={"task": "fracture"})
    save_ensemble(other, locate(tmp_path / "other"))
    replica = began("a")
    with pytest.raises(UserError, match=r"answers fracture .* this server abnormality"):
        replica.roll_out(str(tmp_path / "other"))
    Rollouts(locate(tmp_path / "store"), ensemble_uri).want(str(tmp_path / "other"), ensemble_hash(other))
    replica.look()
    assert (answers_by(replica), replica.rollout.state) == ("knees", "refused")
