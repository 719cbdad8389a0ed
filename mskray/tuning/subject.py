"""What a search is of: a family, whose trials are trainings, or an ensemble, whose trials are votes."""

from collections.abc import Mapping
from typing import Any, Protocol

from mskray.cohorts import Cohort, Task
from mskray.config import Section
from mskray.space import Space


class Subject(Protocol):
    """What a search asks of it; every `mskray.families.Family` is one, and `mskray.verbs.votes.Votes`."""

    @property
    def name(self) -> str: ...
    @property
    def Config(self) -> type[Section]:
        """What a trial's values are put into."""

    @property
    def judged_by(self) -> str:
        """Level and figure by which trials are compared, unless the search is told otherwise."""

    @property
    def tells_classes(self) -> bool:
        """Whether its trials answer with class probabilities."""

    def search_space(self) -> Space:
        """Return what is worth searching, by dotted config key."""

    def spaces(self) -> Mapping[str, Space]:
        """Return other spaces by name."""

    def task(self, cohort: Cohort, name: str) -> Task:
        """Return the cohort's task that trials are judged by, `name` or its own choice. Raises UserError."""

    def check_kind(self, cohort: Cohort) -> None:
        """Raise UserError for a cohort that no trial could be judged on."""

    def check(self, cohort: Cohort, config: Any, task: Task) -> None:
        """Raise UserError for values that do not go together, or not with this task of the cohort."""
