"""What one replica answers by: the ensemble that its server began with, or the one that was rolled out since."""

import logging
import threading
import time
from collections.abc import Callable

from mskray.ensemble import Ensemble, describe
from mskray.errors import Fault, UserError, user_error_in
from mskray.serving.answers import ensemble_hash
from mskray.serving.members import VoteQueue
from mskray.serving.rollouts import BEAT_S, Rollouts, Wanted
from mskray.serving.schemas.models import Rollout

_LOOK_S = 2.0
_LONGEST_WAIT_S = 60.0
"""Between two attempts to load what could not be loaded for a reason that may pass."""
_log = logging.getLogger("ray.serve")


class Rolling:
    """An ensemble that can be exchanged: another one is loaded beside it, tried, and then answers.

    Only an ensemble that is itself at fault is refused. Where the store is away or memory is short the attempt is
    made again: here in `look`, and for a replica that begins by raising, so that it begins again.

    Args:
        ensemble: URI of what the server began with.
        load: makes an ensemble ready to answer.
        rollouts: where changes are told; None where none will come.
        replica: a name of this replica that no other has.
    Raises:
        UserError: `ensemble` cannot be loaded, or the store is away.
    """

    def __init__(
        self, ensemble: str, load: Callable[[str], VoteQueue], rollouts: Rollouts | None = None, replica: str = ""
    ) -> None:
        self._load, self._rollouts, self._replica = load, rollouts, replica
        self._done: str | None = None
        """Id of the last change that was taken or refused."""
        self._together: Rollout | None = None
        self._own = Rollout(ensemble=ensemble, hash=None, id=None, state="loading", reason=None)
        self._beaten = 0.0
        queue = None
        if rollouts is not None:
            self._say(rollouts, self._own)  # before the pointer is read: who asks for a change waits for this one too
            if (wanted := rollouts.wanted()) is not None:
                queue = self._taken(rollouts, wanted)
        if queue is None:
            queue = load(ensemble)
            if self._done is None:
                self._own = self._own.model_copy(update={"state": "served", "hash": queue.described.ensemble.hash})
        self.queue = queue
        if rollouts is not None:
            self._say(rollouts, self._own)

    @property
    def rollout(self) -> Rollout:
        """How far the last change is; `served` where every replica has it."""
        together = self._together
        if together is not None and together.id == self._own.id and self._own.state != "refused":
            return together
        return self._own

    def roll_out(self, ensemble: str) -> Rollout:
        """Ask every replica for another ensemble. Raises UserError where it cannot answer in place of this one."""
        if self._rollouts is None:
            raise UserError("the server was started without --store, which would tell its replicas")
        described = describe(ensemble)
        self._check(described, ensemble)
        return self._rollouts.want(ensemble, ensemble_hash(described)).said("loading")

    def watch(self) -> None:
        """Look for changes for ever, in a thread of its own."""
        threading.Thread(target=self._watch, name="rollout", daemon=True).start()

    def look(self) -> None:
        """Take the change that is wanted, if there is one. Raises what may pass: look again."""
        rollouts = self._rollouts
        assert rollouts is not None
        wanted = rollouts.wanted()
        if wanted is not None and wanted.id != self._done:
            self._own, self._together = wanted.said("loading"), None
            self._say(rollouts, self._own)
            queue = self._taken(rollouts, wanted)
            self.queue = queue or self.queue
            self._say(rollouts, self._own)
        elif time.monotonic() - self._beaten > BEAT_S:
            self._say(rollouts, self._own)
            rollouts.living()
        if wanted is not None and (self._together is None or self._together.state == "loading"):
            self._together = rollouts.together(wanted)

    def _watch(self) -> None:
        wait, stop = _LOOK_S, threading.Event()
        while not stop.wait(wait):
            try:
                self.look()
                wait = _LOOK_S
            except Exception as error:
                _log.error("cannot look for another ensemble: %s", _reason(error))
                wait = min(2 * wait, _LONGEST_WAIT_S)

    def _taken(self, rollouts: Rollouts, wanted: Wanted) -> VoteQueue | None:
        """Load what is wanted; None where it is refused. Raises what may pass."""
        try:
            described = describe(wanted.ensemble)
            if ensemble_hash(described) != wanted.hash:
                raise UserError(f"{wanted.ensemble} has changed since it was rolled out: roll it out again")
            if hasattr(self, "queue"):
                self._check(described, wanted.ensemble)
            queue = self._load(wanted.ensemble)
        except Exception as error:
            told = user_error_in(error)
            if told is None or isinstance(told, Fault):
                raise
            _log.error("ensemble %s is refused: %s", wanted.ensemble, told)
            self._own, self._done = wanted.said("refused", str(told)), wanted.id
            return None
        self._own, self._done = wanted.said("served"), wanted.id
        return queue

    def _check(self, wanted: Ensemble, uri: str) -> None:
        """Raise UserError where an ensemble answers another question than the one that answers now."""
        now = self.queue.described.ensemble
        if (wanted.task, list(wanted.classes)) != (now.task, now.classes):
            raise UserError(
                f"{uri} answers {wanted.task} ({', '.join(wanted.classes)}), this server {now.task} "
                f"({', '.join(now.classes)}): clients rely on it; start another server"
            )

    def _say(self, rollouts: Rollouts, rollout: Rollout) -> None:
        rollouts.say(self._replica, rollout)
        self._beaten = time.monotonic()


def _reason(error: Exception) -> str:
    """What went wrong, without what a defect could quote."""
    told = user_error_in(error)
    return str(told) if told is not None else f"a defect: {type(error).__qualname__}"
