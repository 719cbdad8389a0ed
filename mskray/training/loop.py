"""The loop that every torch family trains with, on one worker or many.

Order, augmentation and dropout depend on (seed, epoch, step, rank) alone and a checkpoint holds the position, so a
run that was cut off goes on at the very step and ends with the same weights as one that was not.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mskray.errors import UserError
from mskray.training.checkpoint import Learner, Position
from mskray.training.feed import Shards, Split, feed
from mskray.training.plan import Plan, Rows, segment
from mskray.training.recipe import Recipe, to_batch
from mskray.training.run import Part
from mskray.training.schedules import Schedule, make_optimizer
from mskray.training.session import Session
from mskray.training.validation import HIGHER_IS_BETTER, named


@dataclass(frozen=True)
class Assignment:
    """All that a worker needs, small enough to travel; `initial_weights` refers to the network's whole state."""

    recipe: Recipe
    train: Split
    validation: Split
    train_shards: tuple[Any, ...]
    validation_shards: tuple[Any, ...]
    class_weights: tuple[float, ...] | None
    initial_weights: Any
    say: Callable[[dict[str, Any]], None]
    held_back: bool = True
    part: Part | None = None
    cpus: float | None = None


class Diverged(UserError):
    """The loss or the network's output is no longer finite; every rank raises it at the same point."""


class Trainer:
    """One rank's training: built once, restored if there is a checkpoint, then `run`."""

    def __init__(self, work: Assignment, initial_weights: dict[str, Tensor], session: Session) -> None:
        self.work, self.session, self.recipe = work, session, work.recipe
        self.config = work.recipe.config
        data, loop, optimizer = self.config.data, self.config.loop, self.config.optimizer
        self.plan = Plan(
            work.train.counts, data.batch_size, data.shuffle_window, loop.seed, session.rank, session.world
        )
        torch.manual_seed(loop.seed)
        self.network = self.recipe.build()
        self.network.load_state_dict(initial_weights)
        # Convolutions run about half as fast again in this layout, on CPU and GPU; results differ by rounding only.
        self.network.to(session.device).to(memory_format=torch.channels_last)
        self.model: nn.Module = self.network
        if session.world > 1:
            ids = [session.device] if session.device.type == "cuda" else None
            self.model = DistributedDataParallel(
                self.network, device_ids=ids, find_unused_parameters=self.recipe.alternates
            )
        self.optimizer = make_optimizer(self.network.parameters(), optimizer)
        updates = loop.epochs * -(-self.plan.steps // optimizer.accumulate)
        better = HIGHER_IS_BETTER[loop.metric]
        self.schedule = Schedule(self.optimizer, self.config.schedule, optimizer.learning_rate, updates, better)
        self.autocast_dtype = autocast_dtype(loop.precision, session.device)
        self.scaler = torch.amp.GradScaler(session.device.type, enabled=self.autocast_dtype == torch.float16)
        weights = work.class_weights
        self.class_weights = None if weights is None else torch.tensor(weights, device=session.device)
        self.train_shards = Shards(work.train, work.train_shards)
        self.validation_shards = Shards(work.validation, work.validation_shards)
        self.position = Position()
        # Summed on the device: reading it each step would make a GPU wait for the host.
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=session.device)
        self.learner = Learner(self.network, self.optimizer, self.schedule, self.scaler, optimizer, self.plan.steps)
        with session.restored(work.part) as folder:
            if folder is not None:
                self.position = self.learner.restore(folder, session.device)
                self.loss_sum.fill_(self.position.loss_sum)
        self.epochs = loop.epochs if work.part is None else min(work.part.until, loop.epochs)

    def run(self) -> None:
        """Train to the end, reporting each epoch."""
        loop, position = self.config.loop, self.position
        batches = feed(self.train_shards, self._order(), ahead=self._ahead())
        started, seen, waited = time.monotonic(), 0, 0.0
        clock = time.monotonic()
        if position.epoch or position.step:
            self.session.say({"kind": "resumed", "epoch": position.epoch + 1, "epochs": loop.epochs})
        while position.epoch < self.epochs and not self._should_stop():
            self.recipe.set_training(self.network, position.epoch)
            epoch_started = time.monotonic()
            epoch_wait, epoch_first = 0.0, position.step
            while position.step < self.plan.steps:
                (epoch, step), arrays = next(batches)
                assert (epoch, step) == (position.epoch, position.step), "the feed lost its place"
                now = time.monotonic()
                waited, epoch_wait = waited + now - clock, epoch_wait + now - clock
                self.loss_sum += self._step(arrays)
                position.step += 1
                seen += len(arrays["label"]) * self.session.world
                if self.session.due(every_s=0.5):
                    self.session.say(self._step_event(seen, time.monotonic() - started, waited))
                if self._checkpoint_due():
                    self.session.report({"epoch": position.epoch + position.step / self.plan.steps}, self._save, None)
                clock = time.monotonic()
            seconds = time.monotonic() - epoch_started
            rows = (self.plan.steps - epoch_first) * self.plan.batch * self.session.world
            entry = self._finish_epoch(rows / seconds if seconds else 0.0, epoch_wait / seconds if seconds else 0.0)
            self.session.report({"epochs": loop.epochs, **entry}, self._save, entry["score"])
            clock = time.monotonic()

    def _order(self) -> Iterator[tuple[tuple[int, int], Rows]]:
        first = self.position.step
        for epoch in range(self.position.epoch, self.epochs):
            for step, rows in enumerate(self.plan.batches(epoch, first), start=first):
                yield (epoch, step), rows
            first = 0

    def _ahead(self) -> int:
        return max(2, self.plan.window // self.plan.batch)

    def _step(self, arrays: dict[str, np.ndarray]) -> Tensor:
        loop, accumulate = self.config.loop, self.config.optimizer.accumulate
        position, device = self.position, self.session.device
        torch.manual_seed(_step_seed(loop.seed, position.epoch, position.step, self.session.rank))
        first = position.step - position.step % accumulate
        group = min(accumulate, self.plan.steps - first)
        last_of_group = position.step - first == group - 1
        batch = self.recipe.augment(to_batch(arrays, device))
        with self._no_exchange() if not last_of_group else nullcontext():
            with self._autocast():
                loss = self.recipe.loss(self.model, batch, self.class_weights)
            self.scaler.scale(loss / group).backward()
        if last_of_group:
            self._update()
        return loss.detach()

    def _update(self) -> None:
        clip = self.config.optimizer.clip_norm
        if clip:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.network.parameters(), clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.after_update()

    def _finish_epoch(self, rate: float, wait_share: float) -> dict[str, Any]:
        position, loop = self.position, self.config.loop
        losses = self.session.gather(float(self.loss_sum) / self.plan.steps)
        self._check_finite(losses)
        # Each rank's BatchNorm has seen its own batches; those of rank 0 are saved, so they are what is validated.
        self.session.share(self.network.buffers())
        figures = self._validate()
        sign = 1.0 if HIGHER_IS_BETTER[loop.metric] else -1.0
        score = sign * figures[f"val_{loop.metric}"]
        if position.best is None or score > position.best:
            position.best, position.best_epoch = score, position.epoch
        self.loss_sum.zero_()
        entry: dict[str, Any] = {
            "epoch": position.epoch + 1,
            "train_loss": float(np.mean(losses)),
            **named(figures, self.work.held_back),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "images_per_s": rate,
            "wait_share": wait_share,
            "score": score,
        }
        position.history.append(entry)
        self.schedule.after_epoch(figures[f"val_{loop.metric}"])
        position.epoch, position.step = position.epoch + 1, 0
        return entry

    @torch.inference_mode()
    def _validate(self) -> dict[str, float]:
        """Validation figures over every row, each seen once, split over the ranks."""
        self.network.eval()
        split, batch = self.work.validation, self.config.data.batch_size
        mine = segment(list(enumerate(split.counts)), self.session.rank, self.session.world)
        parts = ((start, mine[start : start + batch]) for start in range(0, len(mine), batch))
        seen: list[tuple[np.ndarray, np.ndarray]] = []
        for _, arrays in feed(self.validation_shards, parts, ahead=self._ahead()):
            with self._autocast():
                answer = self.recipe.answer(self.network, to_batch(arrays, self.session.device))
            seen.append((self.recipe.judged(answer).float().cpu().numpy(), arrays["label"]))
        everything = [batch for rank in self.session.gather(seen) for batch in rank]
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

    def _checkpoint_due(self) -> bool:
        every, accumulate = self.config.loop.checkpoint_every, self.config.optimizer.accumulate
        step = self.position.step
        return every > 0 and step < self.plan.steps and step % every == 0 and step % accumulate == 0

    def _step_event(self, seen: int, seconds: float, waited: float) -> dict[str, Any]:
        steps, loop, position = self.plan.steps, self.config.loop, self.position
        rows = self.plan.batch * self.session.world
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
            "loss": float(self.loss_sum) / max(position.step, 1),
            "wait_share": waited / seconds if seconds else 0.0,
        }

    def _no_exchange(self) -> Any:
        """Keep gradients on this rank; they travel with the last step of a group."""
        return self.model.no_sync() if isinstance(self.model, DistributedDataParallel) else nullcontext()

    def _autocast(self) -> Any:
        if self.autocast_dtype is None:
            return nullcontext()
        return torch.autocast(self.session.device.type, dtype=self.autocast_dtype)

    def _save(self, folder: Path) -> None:
        self.position.loss_sum = float(self.loss_sum)
        self.learner.save(folder, self.position)


def _step_seed(seed: int, epoch: int, step: int, rank: int) -> int:
    return int(np.random.SeedSequence([seed, epoch, step, rank]).generate_state(1, np.uint64)[0] >> 1)


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """Return the format of the forward pass, None for fp32."""
    if precision == "auto":
        if device.type != "cuda":
            return None
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
