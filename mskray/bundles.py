"""A trained model as files on object storage, readable without this code and without pickle.

    bundle.json           family, config, label space, image format, metrics, cohort hash, versions, file hashes
    weights.safetensors   tensors of its network
    estimator.skops       what a scikit-learn family has fitted; other families have none
    card.md               the same for people

`bundle.json` is written last; a folder without it is not a bundle. Loading checks the schema version and the hash of
every file before anything is used, and makes nothing of an estimator that holds a type other than `TRUSTED`.
"""

import hashlib
import io
import json
import platform
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.torch import load, save
from torch import Tensor

import mskray
from mskray.cards import card
from mskray.cohorts.views import Addition
from mskray.errors import UserError
from mskray.storage import Location, locate
from mskray.storage.versioned import read_versioned

SCHEMA_VERSION = 1
DESCRIPTION, WEIGHTS, ESTIMATOR, CARD = "bundle.json", "weights.safetensors", "estimator.skops", "card.md"
_MOST_CARD = 1 << 20
_MAX_WEIGHTS = 16 << 30
_MAX_ESTIMATOR = 8 << 30
TRUSTED = (
    *(f"mskray.estimators.svm.{name}" for name in ("BaggedSVM", "PartModel", "Polynomial", "Rbf", "Standard")),
    *(f"mskray.estimators.words.{name}" for name in ("Gaussians", "Multinomials", "RbfSvm")),
    "mskray.estimators.pair_softmax.PairSoftmax",
)
"""Types that an estimator may hold beside what skops itself knows: numbers, text, containers, numpy arrays, and
scikit-learn's own."""


class Search(BaseModel):
    """The search that chose a bundle's config. Its figures are of other models with this config, not of the bundle.

    Args:
        uri: of the search. trial: whose parameters they are.
        metric: by which `trials` were compared.
        figures: means over folds and seeds. spread: standard deviations `over` these ("folds", "seeds", "").
        members: how many bundles were chosen to vote together; 1 for the winner alone.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    uri: str
    trial: str
    metric: str
    trials: int
    figures: dict[str, float]
    spread: dict[str, float] = {}
    over: str = ""
    folds: int = 1
    seeds: int = 1
    members: int = 1


@dataclass(frozen=True)
class Fitted:
    """A fitted model in memory: what is written to files and read back.

    Args:
        family: the registered name.
        config: the family's config as plain JSON values.
        task, classes: what it tells apart.
        kind: kind of cohort that it reads ("radiograph").
        body_parts: parts seen in training; another one is a reason for doubt.
        image: canvas of the cohort's images (`size`, `dtype`, `fit`), to which new images are brought.
        state: tensors of its network.
        history, best: training figures, an entry an epoch, and the chosen one; keys of an earlier training that this
            one builds on are marked "<its name>/".
        labels: training samples of each class.
        cohort: `uri` and `content_hash` of the cohort.
        added: cohorts whose train split was learned beside its own.
        estimator: what a scikit-learn family has fitted; None for the others.
        sample: what was learned from one at a time, and counted: "image", "study" or "disc".
        tasks: where it answers several at once, the classes of each, `task` among them; empty for one. `labels` are
            then by "<task>/<class>".
        learned: splits of the cohort that were learned from.
        search: what chose the config, where a search did.
        validated: what it says of the labelled images of the validation split, (n, classes) in their order, NaN where
            it has no answer; None where fitting has not asked. Not part of a bundle.
    """

    family: str
    config: dict[str, Any]
    task: str
    classes: tuple[str, ...]
    kind: str
    body_parts: tuple[str, ...]
    image: dict[str, Any]
    state: dict[str, Tensor]
    history: list[dict[str, Any]]
    best: dict[str, Any]
    labels: dict[str, int]
    cohort: dict[str, str]
    estimator: Any = None
    sample: str = "image"
    tasks: dict[str, tuple[str, ...]] = field(default_factory=dict)
    learned: tuple[str, ...] = ("train",)
    search: Search | None = None
    added: tuple[Addition, ...] = ()
    validated: np.ndarray | None = None


_NOT_DESCRIBED = ("state", "estimator", "validated")


class Bundle(BaseModel):
    """`bundle.json`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: int = SCHEMA_VERSION
    name: str
    family: str
    config: dict[str, Any]
    task: str
    classes: tuple[str, ...]
    kind: str
    body_parts: tuple[str, ...]
    image: dict[str, Any]
    best: dict[str, Any]
    history: list[dict[str, Any]]
    labels: dict[str, int]
    cohort: dict[str, str]
    sample: str = "image"
    tasks: dict[str, tuple[str, ...]] = {}
    learned: tuple[str, ...] = ("train",)
    search: Search | None = None
    added: tuple[Addition, ...] = ()
    fingerprint: str
    created: str
    versions: dict[str, str]
    files: dict[str, str]

    @property
    def epochs(self) -> int:
        """Epochs of the training that `best` is of; those of an earlier one are marked by its name in `history`."""
        return sum("epoch" in entry for entry in self.history)

    @property
    def has_estimator(self) -> bool:
        return ESTIMATOR in self.files

    @property
    def hash(self) -> str:
        """SHA-256 over the files' hashes and what decides a prediction; the same before writing and after reading."""
        decisive = {"family", "config", "classes", "image", "files", *(["tasks"] if self.tasks else [])}
        content = self.model_dump(mode="json", include=decisive)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def save_bundle(fitted: Fitted, location: Location, fingerprint: str) -> Bundle:
    """Write a fitted model to `location` and return its description.

    Args:
        fingerprint: hash of the job that made it, by which a repeated job finds it.
    """
    files = {WEIGHTS: save({name: value.contiguous() for name, value in fitted.state.items()})}
    if fitted.estimator is not None:
        files[ESTIMATOR] = _estimator_bytes(fitted.estimator)
    for name, content in files.items():
        location.join(name).write_bytes(content)
    bundle = Bundle(
        name=location.name,
        **{key: value for key, value in vars(fitted).items() if key not in _NOT_DESCRIBED},
        fingerprint=fingerprint,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=_versions(),
        files={name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    )
    location.join(CARD).write_bytes(card(bundle).encode())
    location.join(DESCRIPTION).write_json(bundle.model_dump(mode="json"))
    return bundle


def read_card(uri: str | Location) -> str:
    """Return a bundle's model card, Markdown; "" where somebody took it away."""
    place = locate(uri).join(CARD)
    return place.read_bytes(_MOST_CARD).decode(errors="replace") if place.is_file() else ""


def read_description(uri: str | Location) -> Bundle:
    """Read and check `bundle.json` alone. Raises UserError: no bundle, a newer schema, a broken description."""
    location = locate(uri)
    content = read_versioned(location.join(DESCRIPTION), "bundle", SCHEMA_VERSION)
    try:
        return Bundle.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"bundle {location}: {DESCRIPTION} is damaged at {first['loc']}: {first['msg']}") from None


def foundations(sections: Mapping[str, Any]) -> Iterator[tuple[str, str, Bundle]]:
    """Yield the bundles that a model stands on: (config key, URI, description), then those that they stand on.

    One that is no longer there is left out.

    Args:
        sections: of its config.
    """
    for name in ("network", "zoom"):
        if uri := (sections.get(name) or {}).get("bundle"):
            with suppress(UserError):
                bundle = read_description(str(uri))
                yield f"{name}.bundle", str(uri), bundle
                yield from foundations(bundle.config)


def _versions() -> dict[str, str]:
    """Of what made a bundle; Ray's where it is installed."""
    found = {"mskray": mskray.__version__, "python": platform.python_version(), "torch": str(torch.__version__)}
    with suppress(PackageNotFoundError):
        found["ray"] = version("ray")
    return dict(sorted(found.items()))


def load_bundle(uri: str | Location) -> tuple[Bundle, Fitted]:
    """Load a bundle. Raises UserError: not a bundle, newer schema, a missing file, a file that was changed."""
    location = locate(uri)
    bundle = read_description(location)
    weights = _checked(location, bundle, WEIGHTS, _MAX_WEIGHTS)
    estimator = _estimator(location, bundle) if bundle.has_estimator else None
    stored = (name for name in Fitted.__dataclass_fields__ if name not in _NOT_DESCRIBED)
    facts = {name: getattr(bundle, name) for name in stored}
    return bundle, Fitted(state=load(weights), estimator=estimator, **facts)


def _checked(location: Location, bundle: Bundle, name: str, max_bytes: int) -> bytes:
    """Read one of the bundle's files and compare it with its hash."""
    content = location.join(name).read_bytes(max_bytes=max_bytes)
    if hashlib.sha256(content).hexdigest() != bundle.files.get(name):
        raise UserError(
            f"bundle {location}: {name} does not match the hash in {DESCRIPTION}; it was damaged or changed: "
            "restore it or train again"
        )
    return content


def _estimator_bytes(estimator: Any) -> bytes:
    from skops.io import dumps

    return dumps(estimator)


def _estimator(location: Location, bundle: Bundle) -> Any:
    # skops loads the whole of scikit-learn, which a bundle of tensors does without.
    from skops.io import get_untrusted_types, loads

    content = _checked(location, bundle, ESTIMATOR, _MAX_ESTIMATOR)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > _MAX_ESTIMATOR:
            raise ValueError(f"its {size:,} bytes unpacked are more than {_MAX_ESTIMATOR:,}")
        strangers = sorted(set(get_untrusted_types(data=content)) - set(TRUSTED))
        if not strangers:
            return loads(content, trusted=list(TRUSTED))
    except Exception as error:  # whatever a damaged archive makes zipfile, json, numpy and skops raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"bundle {location}: {ESTIMATOR} cannot be read ({reason}): restore it or train again"
        ) from None
    raise UserError(
        f"bundle {location}: {ESTIMATOR} holds types that mskray does not load ({', '.join(strangers)[:300]}): "
        "do not use this bundle unless you know who made it; train it again"
    )
