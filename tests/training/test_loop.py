"""The loop on one rank without a cluster: what it reports of waiting, and what ends a run that diverges."""

import pytest
from linear_training import ROWS, Linear, Session, shards_at_hand, trainer_of

from mskray.training.loop import Diverged, Trainer


@pytest.fixture
def trainer():
    """Make a Trainer whose shards are at hand at once."""
    split = shards_at_hand()

    def make(recipe: Linear, session: Session, held_back: bool = True) -> Trainer:
        return trainer_of(recipe, session, split, held_back=held_back)

    return make


def test_writing_a_checkpoint_is_not_waiting_for_data(trainer) -> None:
    session = Session(keep_s=0.2)
    trainer(Linear(), session).run()
    assert len(session.events) == 2
    assert all(each["wait_share"] < 0.3 for each in session.events), session.events


def test_an_epoch_tells_what_it_saw_and_where_its_time_went(trainer) -> None:
    session = Session()
    trainer(Linear(), session).run()
    assert [each["samples"] for each in session.events] == [ROWS, ROWS]
    # Every row is seen in each epoch, in another order.
    assert len({each["rows_digest"] for each in session.events}) == 1
    assert session.meters.seen == 2 * ROWS
    for each in session.events:
        assert each["communicate_share"] == 0
        assert 0 <= each["wait_share"] + each["report_share"] < 1


@pytest.mark.parametrize("broken", ["loss", "probabilities"])
def test_a_run_that_diverges_ends_with_one_line(trainer, broken: str) -> None:
    session = Session()
    with pytest.raises(Diverged, match=r"diverged in epoch 1 .* lower optimizer\.learning_rate \(now 0\.0003\)"):
        trainer(Linear(broken), session).run()
    assert not session.files, "a diverged epoch must not become a checkpoint"


@pytest.mark.parametrize(("held_back", "epochs", "named"), [(True, 3, "val_"), (False, 6, "learned_")])
def test_where_nothing_is_held_back_nothing_stops_early(trainer, held_back: bool, epochs: int, named: str) -> None:
    """A rate of nearly 0: no epoch is better than the first, and a patience of 2 ends the run after the third."""
    recipe = Linear(loop={"epochs": 6, "patience": 2}, optimizer={"learning_rate": 1e-30})
    session = Session()
    trainer(recipe, session, held_back).run()
    assert [each["epoch"] for each in session.events] == list(range(1, epochs + 1))
    assert all(f"{named}auroc" in each for each in session.events)
    assert sum(key.startswith(("val_", "learned_")) for key in session.events[0]) == 6
