"""Which checkpoints of a run are kept: the two latest and the two best, so that one of each may be damaged."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

KEPT = 2


@dataclass(frozen=True)
class Entry:
    """What is known of a checkpoint from its description.

    Args:
        name: of its folder.
        epoch, step: whole epochs behind it, and steps of the open one.
        score: of the epoch that it ends, higher is better; None inside an epoch.
        files: bytes and SHA-256 of each file.
        damage: what is wrong with it as far as its description and the listing tell; empty where nothing is.
    """

    name: str
    epoch: int
    step: int
    score: float | None
    files: Mapping[str, tuple[int, str]]
    damage: str = ""

    @property
    def place(self) -> str:
        """In words."""
        return f"epoch {self.epoch + 1}, step {self.step}" if self.step else f"the end of epoch {self.epoch}"


def latest_first(entries: Iterable[Entry]) -> list[Entry]:
    """By position; of two at the same the later name, so that every rank has the same order."""
    return sorted(entries, key=lambda each: (each.epoch, each.step, each.name), reverse=True)


def best_first(entries: Iterable[Entry]) -> list[Entry]:
    """Those with a score; of equal ones the later is the better."""
    scored = [(each.score, each.epoch, each.name, each) for each in entries if each.score is not None]
    return [each for *_, each in sorted(scored, key=lambda found: found[:3], reverse=True)]


def superfluous(entries: Iterable[Entry]) -> list[Entry]:
    """Those that are neither among the latest nor among the best."""
    found = list(entries)
    kept = {each.name for each in latest_first(found)[:KEPT] + best_first(found)[:KEPT]}
    return [each for each in found if each.name not in kept]
