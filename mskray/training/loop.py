"""The loop that every torch family trains with, on one worker or many.

Order, augmentation and dropout depend on (seed, epoch, step, lane) alone and a checkpoint holds the position, so a
run that was cut off goes on at the very step, on as many workers as there are, and ends as one that was not: on a CPU
bit for bit with as many workers, on a GPU but for rounding.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mskray.errors import UserError
from mskray.training.assignment import Assignment
from mskray.training.checkpoint import Learner, Position
from mskray.training.copier import Copier, Tensors
from mskray.training.feed import Shards, feed
from mskray.training.lanes import buffers_kept, dealt, share, step_seed
from mskray.training.plan import Plan, Rows, segment
from mskray.training.precision import autocast_dtype, prepare
from mskray.training.recipe import scaled
from mskray.training.schedules import Schedule, make_optimizer
from mskray.training.seen import Seen
from mskray.training.session import Session
from mskray.training.stopwatch import Exchange, Stopwatch
from mskray.training.validation import HIGHER_IS_BETTER, named


class Diverged(UserError):
    """The loss or the network's output is no longer finite; every rank raises it at the same point."""


class Trainer:
    """One rank's training: built once, restored if there is a checkpoint, then `run`."""

    def __init__(self, work: Assignment, initial_weights: dict[str, Tensor], session: Session) -> None:
        self.work, self.session, self.recipe = work, session, work.recipe
        self.config = work.recipe.config
        data, loop, optimizer = self.config.data, self.config.loop, self.config.optimizer
        self.lanes = dealt(work.lanes, session.rank, session.world)
        plan = (work.train.counts, data.batch_size, data.shuffle_window, loop.seed)
        self.plans = [Plan(*plan, lane, work.lanes) for lane in self.lanes]
        self.plan = self.plans[0]
        torch.manual_seed(loop.seed)
        self.network = self.recipe.build()
        self.network.load_state_dict(initial_weights)
        prepare(self.network, session.device, work.compile)
        self.model: nn.Module = self.network
        self.exchange: Exchange | None = None
        if session.world > 1:
            ids = [session.device] if session.device.type == "cuda" else None
            self.model = DistributedDataParallel(
                self.network, device_ids=ids, find_unused_parameters=self.recipe.alternates
            )
            self.exchange = Exchange(self.model)
        self.optimizer = make_optimizer(self.network.parameters(), optimizer)
        updates = loop.epochs * -(-self.plan.steps // optimizer.accumulate)
        better = HIGHER_IS_BETTER[loop.metric]
        self.schedule = Schedule(self.optimizer, self.config.schedule, optimizer.learning_rate, updates, better)
        self.autocast_dtype = autocast_dtype(loop.precision, session.device)
        self.scaler = torch.amp.GradScaler(session.device.type, enabled=self.autocast_dtype == torch.float16)
        weights = work.class_weights
        self.class_weights = None if weights is None else torch.tensor(weights, device=session.device)
        self.train_shards = Shards(session.readers, work.train, work.train_shards)
        self.validation_shards = Shards(session.readers, work.validation, work.validation_shards)
        self.copied = Copier(session.device)
        self.position = Position()
        # Summed on the device, lane by lane: reading it each step would make a GPU wait for the host.
        self.losses = torch.zeros(len(self.lanes), dtype=torch.float64, device=session.device)
        self.seen = Seen()  # by this rank, since the position was last brought together
        self.clock = Stopwatch(session.meters.phase)
        self.learner = Learner(
            self.network, self.optimizer, self.schedule, self.scaler, optimizer, self.plan.steps, work.lanes
        )
        with session.restored(work.part) as folder:
            if folder is not None:
                self.position = self.learner.restore(folder, session.device)
                if self.position.losses:
                    self.losses.copy_(
                        torch.tensor(self.position.losses, dtype=torch.float64)[self.lanes.start : self.lanes.stop]
                    )
        self.epochs = loop.epochs if work.part is None else min(work.part.until, loop.epochs)

    def run(self) -> None:
        """Train to the end; each epoch ends with a checkpoint."""
        loop, position, session, clock = self.config.loop, self.position, self.session, self.clock
        batches = self.copied(feed(self.train_shards, self._order(), ahead=self._ahead()))
        begun, done = time.monotonic(), 0
        waited = 0.0
        if position.epoch or position.step:
            session.say({"kind": "resumed", "epoch": position.epoch + 1, "epochs": loop.epochs})
        while position.epoch < self.epochs and not self._should_stop():
            self.recipe.set_training(self.network, position.epoch)
            clock.restart()
            first = position.step
            while position.step < self.plan.steps:
                waited += self._step(batches)
                position.step += 1
                done += self._rows
                if session.due(every_s=0.5):
                    session.say(self._step_event(done, time.monotonic() - begun, waited))
                if self._may_keep() and session.checkpoint_now(loop.checkpoint_minutes):
                    self._bring_together()
                    session.keep(position.epoch, position.step, None, self._snapshot)
                clock.mark("report")
            seconds = clock.seconds
            session.settle()
            entry = self._finish_epoch((position.step - first) * self._rows / seconds if seconds else 0.0)
            event = {"kind": "epoch", "epochs": loop.epochs, **entry}
            session.keep(position.epoch, 0, entry["score"], self._snapshot, event)
            session.check()
            clock.mark("report")
        session.finish()

    @property
    def _rows(self) -> int:
        """Rows of a step."""
        return self.plan.batch * self.work.lanes

    def _order(self) -> Iterator[tuple[tuple[int, int, int, Rows], Rows]]:
        first = self.position.step
        for epoch in range(self.position.epoch, self.epochs):
            together = zip(*(plan.batches(epoch, first) for plan in self.plans), strict=True)
            for step, batches in enumerate(together, start=first):
                for lane, rows in zip(self.lanes, batches, strict=True):
                    yield (epoch, step, lane, rows), rows
            first = 0

    def _ahead(self) -> int:
        return max(2, self.plan.window // self.plan.batch) * len(self.lanes)

    def _step(self, batches: Iterator[tuple[Any, Any, Tensors]]) -> float:
        """Train on the next batch of each lane; return the seconds that these were waited for."""
        position, clock, accumulate = self.position, self.clock, self.config.optimizer.accumulate
        first = position.step - position.step % accumulate
        group = min(accumulate, self.plan.steps - first)
        last_of_group = position.step - first == group - 1
        waited = 0.0
        for lane in self.lanes:
            (epoch, step, which, rows), _, tensors = next(batches)
            assert (epoch, step, which) == (position.epoch, position.step, lane), "the feed lost its place"
            waited += clock.mark("wait")
            with self._no_exchange(unless=last_of_group and lane == self.lanes[-1]):
                self._learn(lane, tensors, group)
            self.seen = self.seen.with_rows(rows)
            self.session.meters.images(len(rows))
            clock.mark("compute", self.exchange.seconds() if self.exchange else 0.0)
        if last_of_group:
            self._update()
            clock.mark("compute")
        return waited

    def _learn(self, lane: int, tensors: Tensors, group: int) -> None:
        """Add a lane's gradients, for a mean over lanes and the `group` steps that are summed."""
        position = self.position
        torch.manual_seed(step_seed(self.config.loop.seed, position.epoch, position.step, lane))
        batch = self.recipe.augment(scaled(tensors))
        number = lane - self.lanes.start
        if self.work.compile == "graphs":
            torch.compiler.cudagraph_mark_step_begin()  # what the last step's graph left may be overwritten
        with buffers_kept(self.network, keep=number > 0):
            with self._autocast():
                loss = self.recipe.loss(self.model, batch, self.class_weights)
            weight = share(self.work.lanes, self.session.world)
            self.scaler.scale(loss / group if weight == 1.0 else loss * (weight / group)).backward()
        self.losses[number] += loss.detach()

    def _update(self) -> None:
        clip = self.config.optimizer.clip_norm
        if clip:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.network.parameters(), clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.after_update()

    def _finish_epoch(self, rate: float) -> dict[str, Any]:
        position, loop, clock = self.position, self.config.loop, self.clock
        shares = {f"{name}_share": clock.share(name) for name in ("wait", "communicate", "report")}
        self._bring_together()
        losses = [each / self.plan.steps for each in position.losses]
        self._check_finite(losses)
        # Each rank's BatchNorm has seen its own batches; those of rank 0 are saved, so they are what is validated.
        self.session.share(self.network.buffers())
        figures = self.validate()
        sign = 1.0 if HIGHER_IS_BETTER[loop.metric] else -1.0
        score = sign * figures[f"val_{loop.metric}"]
        if position.best is None or score > position.best:
            position.best, position.best_epoch = score, position.epoch
        entry: dict[str, Any] = {
            "epoch": position.epoch + 1,
            "train_loss": float(np.mean(losses)),
            **named(figures, self.work.held_back),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "images_per_s": rate,
            **shares,
            "samples": position.seen.samples,
            "rows_digest": position.seen.digest,
            "score": score,
        }
        position.history.append(entry)
        self.schedule.after_epoch(figures[f"val_{loop.metric}"])
        position.epoch, position.step, position.losses, position.seen = position.epoch + 1, 0, [], Seen()
        self.losses.zero_()
        clock.mark("compute")
        return entry

    def _bring_together(self) -> None:
        """Make the position hold what all ranks have seen; every rank does so at the same step."""
        parts = self.session.gather((self.losses.tolist(), self.seen))
        self.position.losses = [loss for losses, _ in parts for loss in losses]
        self.position.seen = sum((seen for _, seen in parts), start=self.position.seen)
        self.seen = Seen()

    @torch.inference_mode()
    def validate(self) -> dict[str, float]:
        """Validation figures over every row, each seen once, split over the lanes."""
        self.network.eval()
        split, batch = self.work.validation, self.config.data.batch_size
        mine = [segment(list(enumerate(split.counts)), lane, self.work.lanes) for lane in self.lanes]
        parts = ((start, rows[start : start + batch]) for rows in mine for start in range(0, len(rows), batch))
        seen: list[tuple[Tensor, np.ndarray]] = []
        for _, arrays, tensors in self.copied(feed(self.validation_shards, parts, ahead=self._ahead())):
            with self._autocast():
                answer = self.recipe.answer(self.network, scaled(tensors))
            # From a GPU without waiting: it goes on with the next batch.
            seen.append((self.recipe.judged(answer).float().to("cpu", non_blocking=True), arrays["label"]))
        self.copied.wait()
        here = [(said.numpy(), labels) for said, labels in seen]
        everything = [batch for rank in self.session.gather(here) for batch in rank]
        judged, labels = (np.concatenate(each) for each in zip(*everything, strict=True))
        assert len(labels) == split.rows, "validation must see every row exactly once"
        self._check_finite(judged)
        return self.recipe.judge(judged, labels)

    def _check_finite(self, values: Any) -> None:
        if not np.isfinite(values).all():
            raise Diverged(
                f"training diverged in epoch {self.position.epoch + 1} (loss or output is not finite): lower "
                f"optimizer.learning_rate (now {self.config.optimizer.learning_rate:g}) or set optimizer.clip_norm"
            )

    def _should_stop(self) -> bool:
        stops = self.work.held_back and self.work.part is None
        patience = self.config.loop.patience if stops else 0
        return patience > 0 and self.position.epoch - 1 - self.position.best_epoch >= patience

    def _may_keep(self) -> bool:
        """Inside an epoch, and no gradients are summed up that a checkpoint would lose."""
        step = self.position.step
        return step < self.plan.steps and step % self.config.optimizer.accumulate == 0

    def _step_event(self, seen: int, seconds: float, waited: float) -> dict[str, Any]:
        steps, loop, position = self.plan.steps, self.config.loop, self.position
        rows = self._rows
        rate = seen / seconds if seconds else 0.0
        left = ((loop.epochs - position.epoch) * steps - position.step) * rows
        return {
            "kind": "step",
            "epoch": position.epoch + 1,
            "epochs": loop.epochs,
            "done": position.step * rows,
            "total": steps * rows,
            "rate": rate,
            "left_s": left / rate if rate else -1.0,
            "loss": float(self.losses.mean()) / max(position.step, 1),
            "wait_share": waited / seconds if seconds else 0.0,
        }

    def _no_exchange(self, unless: bool) -> Any:
        """Keep gradients on this rank; they travel with the last lane of the last step of a group."""
        kept = isinstance(self.model, DistributedDataParallel) and not unless
        return self.model.no_sync() if kept else nullcontext()  # type: ignore[operator]  # mypy forgets what it is

    def _autocast(self) -> Any:
        if self.autocast_dtype is None:
            return nullcontext()
        return torch.autocast(self.session.device.type, dtype=self.autocast_dtype)

    def _snapshot(self) -> Callable[[], dict[str, bytes]]:
        return self.learner.snapshot(self.position)
