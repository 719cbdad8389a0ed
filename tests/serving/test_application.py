"""The two deployments: what the ingress makes of members that do not answer, and what it need not import."""

import asyncio
import subprocess
import sys

import pytest
from ray.exceptions import ActorDiedError, RayActorError, RayTaskError
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from mskray.serving.application import Rules, build
from mskray.serving.problems import Problem, too_busy
from mskray.serving.remote import answer_of
from mskray.serving.settings import Limits, Offer
from mskray.serving.tokens import Access


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (RayActorError(), 503, "unavailable"),
        (ActorDiedError(), 503, "unavailable"),
        (DeploymentUnavailableError(DeploymentID("Members", "mskray")), 503, "unavailable"),
        (BackPressureError(9, 8), 429, "too-busy"),
        (RayTaskError("read", "", too_busy("4 wait")).as_instanceof_cause(), 429, "too-busy"),
        (ValueError("a defect"), 0, ""),
    ],
)
def test_members_that_do_not_answer(error: Exception, status: int, kind: str) -> None:
    async def failing() -> None:
        raise error

    with pytest.raises(Problem if status else type(error)) as raised:
        asyncio.run(answer_of(failing()))
    if isinstance(raised.value, Problem):
        assert not isinstance(raised.value, RayTaskError)
        assert (raised.value.status_code, raised.value.kind) == (status, kind)
        assert raised.value.headers == {"Retry-After": "5"}


def test_the_ingress_does_not_import_torch() -> None:
    code = "import sys, mskray.serving.application; print('torch' in sys.modules, 'ray.data' in sys.modules)"
    answered = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answered.stdout.split() == ["False", "False"]


def test_no_queue_is_without_end() -> None:
    limits = Limits(max_open=3, max_waiting=5)
    ingress = build(Offer(ensemble="s3://models/knees"), Rules(limits, Access()))._bound_deployment
    members = ingress.init_args[0].studies._bound_deployment
    for deployment in (ingress, members):
        assert 0 < deployment.max_queued_requests < 1000
    most = limits.max_open + limits.max_waiting
    assert ingress.max_ongoing_requests > most, "health is answered beside them"
    assert ingress.max_queued_requests > most, "Serve counts all that arrive in one moment as queued"


def test_models_are_told_beside_the_volumes_that_wait() -> None:
    offer = Offer(spines="s3://models/grader", vertebrae="s3://models/detector")
    spines = build(offer, Rules(Limits(), Access()))._bound_deployment.init_args[0].spines._bound_deployment
    _, _, waiting, _ = spines.init_args
    assert spines.max_ongoing_requests > waiting + 1
