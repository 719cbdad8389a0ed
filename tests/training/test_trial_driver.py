"""A search's trials train one after the other in a process."""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from small_run import small_job

from mskray.bundles import Fitted
from mskray.cohorts import Cohort
from mskray.storage import locate
from mskray.training.on_ray import trial
from mskray.training.once import Shared
from mskray.training.run import Resources, Run
from mskray.verbs.train import parse_job


@pytest.fixture
def as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leaves the tests' own process with its threads and its memory."""
    monkeypatch.setattr(trial, "keep_memory", lambda: None)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    gc.unfreeze()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster", "as_it_was")
def test_what_was_trained_before_in_the_process_changes_nothing(phantom_cohort: Cohort, tmp_path: Path) -> None:
    shared = Shared.start()

    def fitted(name: str, seed: int) -> Fitted:
        sections = {"loop": {"epochs": 1, "seed": seed}}
        job, chosen, config = parse_job(small_job(phantom_cohort, locate(tmp_path / "no"), **sections), "test")
        task = chosen.task(phantom_cohort, job.task)
        run = Run(locate(tmp_path), name, task, Resources(cpus_per_worker=0.5), shared=shared, local=True)
        return chosen.fit(phantom_cohort, config, run)

    first, other, again = fitted("first", 0), fitted("other", 1), fitted("again", 0)
    assert first.history[0]["rows_digest"] == again.history[0]["rows_digest"]
    assert all(torch.equal(value, again.state[name]) for name, value in first.state.items())
    assert any(not torch.equal(value, other.state[name]) for name, value in first.state.items())
