"""Pairs of images as bags of visual words: CRMO's second model.

mskray train jobs/configs/knee-pair-bovw.yaml

Key points (ORB, SIFT or SURF) of all images are clustered into words; an image is the histogram of its words, a pair
is two histograms one after the other, and a support vector machine or naive Bayes judges it. Descriptors are found
once with Ray Data and kept in the cache, so that another vocabulary begins with the clustering; vocabularies and
histograms are kept as well, and another classifier begins with these. The words are learned from the training pairs
alone, without their noisy copies.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch

from mskray import cluster
from mskray.bundles import ESTIMATOR, Fitted
from mskray.cohorts import Cohort, Task
from mskray.cohorts.change import PAIR
from mskray.config import Section, setting
from mskray.errors import UserError
from mskray.estimators.cache import Cache, CacheSection
from mskray.estimators.histograms import count_words
from mskray.estimators.pair_samples import MEMBERS
from mskray.estimators.pair_words import (
    KeyPointSection,
    PairWords,
    extract_once,
    of_copies,
    refusals,
    usable,
    vocabulary_line,
)
from mskray.estimators.pairs import AugmentSection, Pairs, check_reversal
from mskray.estimators.starts import KMeansSection
from mskray.estimators.svm import CONSTANT
from mskray.estimators.vocabularies import Vocabulary
from mskray.estimators.words import (
    ClassifierSection,
    Gaussians,
    Multinomials,
    RbfSvm,
    class_probabilities,
    fit_classifier,
    pair_rows,
)
from mskray.families.base import Family, Images, Prediction, Predictor, register
from mskray.imaging.inputs import InputFormat
from mskray.imaging.intensity import to_uint8
from mskray.imaging.keypoints import KINDS, describe
from mskray.imaging.regions import fit_to_format
from mskray.progress import Progress
from mskray.space import Space, choice, grid, loguniform, only
from mskray.training.run import Run, Trained
from mskray.training.validation import named, validation_metrics

_WORDS = "words"
_TOLD = 5


class PairBovwConfig(Section):
    """Config of the `pair_bovw` family."""

    keypoints: KeyPointSection = KeyPointSection()
    vocabulary: int = setting(500, "visual words", unit="words", source="CRMO: 50, 500", ge=2, le=100_000)
    kmeans: KMeansSection = KMeansSection()
    classifier: ClassifierSection = ClassifierSection()
    augment: AugmentSection = AugmentSection()
    cache: CacheSection = CacheSection()


@dataclass
class PairBovwPredictor:
    """Words, and what the classifier makes of their histograms."""

    classes: tuple[str, ...]
    config: PairBovwConfig
    centres: np.ndarray
    model: RbfSvm | Gaussians | Multinomials
    image: dict[str, Any]

    def __call__(self, images: Images) -> Prediction:
        """Judge pairs, each (2, rows, columns); one with an image without a key point gets an error and no answer."""
        kind, most = self.config.keypoints.descriptor, self.config.keypoints.most
        form = InputFormat(self.image["size"], self.config.keypoints.intensity)
        canvas = self.image["size"], self.image["fit"], self.image["dtype"]
        seen = [to_uint8(form(fit_to_format(image, *canvas)[0])) for pair in images.pixels for image in pair]
        found = [describe(image, kind, most) for image in seen]
        lengths = np.array([len(each.descriptors) for each in found]).reshape(-1, MEMBERS)
        empty = describe(np.zeros((0, 0), np.uint8), kind, 1).descriptors
        descriptors = np.concatenate([empty, *(each.descriptors for each in found)])
        counts = count_words(descriptors, kind, lengths, self.centres)
        judged = (lengths > 0).all(axis=1)
        result = np.full((len(lengths), len(self.classes)), np.nan, np.float32)
        if judged.any():
            result[judged] = class_probabilities(self.model, pair_rows(counts[judged], self.config.classifier))
        errors = {
            int(place): "; ".join(
                f"{name}: {found[MEMBERS * place + member].reason}"
                for member, name in enumerate(("before", "after"))
                if not lengths[place, member]
            )
            for place in np.flatnonzero(~judged)
        }
        return Prediction(result, errors=errors)


@register
class PairBovw(Family):
    name = "pair_bovw"
    summary = "visual words (ORB, SIFT, SURF) of an image pair → SVM-RBF or naive Bayes"
    kinds: ClassVar[tuple[str, ...]] = (PAIR,)
    needs_ray: ClassVar[bool] = True
    sample = "pair"
    Config = PairBovwConfig

    def sees_whole_images(self, config: Any) -> bool:
        return False

    def check(self, cohort: Cohort, config: PairBovwConfig, task: Task) -> None:
        super().check(cohort, config, task)
        check_reversal(task, config.augment)

    def fit(self, cohort: Cohort, config: PairBovwConfig, run: Run) -> Fitted:
        cluster.require(cluster.Need("key points and words", 1, 1.0))
        cache, given = Cache.of(config.cache, cohort), {}
        for split in ("train", "validation"):
            words = PairWords.open(cohort, split, run.task, config.keypoints, config.augment, cache)
            extract_once(words, run.shared, run.report)
            given[split] = words, self._usable(cohort, words, run)
        held, held_rows = given["validation"]
        labels = Pairs.read(cohort, "validation", run.task).labels[held_rows]
        check_left(labels, run.task, f"cohort {cohort.location}, split validation")
        words, rows = given["train"]
        vocabulary = Vocabulary.open(words, rows, config.vocabulary, config.kmeans, cache)
        learned_words = vocabulary.learn(run.shared, run.report)
        run.report(Progress(vocabulary_line(learned_words)))
        pairs = Pairs.read(cohort, "train", run.task)
        copies = pairs.copies(rows, config.augment)
        counts, seen = of_copies(vocabulary.count(words, run.shared, run.report), copies)
        model = fit_classifier(
            pair_rows(counts[seen], config.classifier),
            copies.labels[seen],
            pairs.patients[copies.pair[seen]],
            run.task.classes,
            config.classifier,
        )
        if isinstance(model, RbfSvm) and model.model.constant:
            run.report(Progress(f"the SVM tells nothing apart: {CONSTANT}"))
        judged = pair_rows(vocabulary.count(held, run.shared, run.report)[held_rows, 0], config.classifier)
        validated = np.full((held.pairs, len(run.task.classes)), np.nan, np.float32)
        validated[held_rows] = probabilities = class_probabilities(model, judged)
        facts = {f"kmeans_{key}": value for key, value in learned_words.facts().items()}
        reached = named(validation_metrics(probabilities, labels), run.held_back)
        figures = {"epoch": 1, **facts, **reached}
        for tracker in run.trackers:
            tracker.epoch({**figures, "prefix": run.prefix})
        learned = np.bincount(pairs.labels[rows], minlength=len(run.task.classes)).tolist()
        trained = Trained(
            {_WORDS: torch.from_numpy(learned_words.centres)},
            [figures],
            figures,
            dict(zip(run.task.classes, learned, strict=True)),
        )
        return replace(self.fitted(cohort, config, run.task, trained), estimator=model, validated=validated)

    def predictor(self, fitted: Fitted, device: str = "cpu") -> Predictor:
        model, words = fitted.estimator, fitted.state.get(_WORDS)
        if not isinstance(model, RbfSvm | Gaussians | Multinomials) or words is None or words.ndim != 2:
            raise UserError(f"a bundle of {self.name} without its {ESTIMATOR} or words: restore it or train again")
        config = PairBovwConfig.model_validate(fitted.config)
        return PairBovwPredictor(fitted.classes, config, words.numpy(), model, fitted.image)

    def search_space(self) -> Space:
        return {
            "keypoints.descriptor": choice(*KINDS),
            "vocabulary": choice(50, 100, 200, 500, 1000),
            "classifier.name": choice("svm", "gaussian_nb", "multinomial_nb"),
            "classifier.C": only(loguniform(1e-2, 1e3), classifier__name="svm"),
            "classifier.gamma": only(loguniform(1e-2, 1e3), classifier__name="svm"),
        }

    def spaces(self) -> Mapping[str, Space]:
        """CRMO's descriptors, judges and vocabularies of 50 and 500 words ("Bag of Visual Words", and its table).

        `vocabularies` has two sizes between them; C and γ, where 0 is scikit-learn's scale, are ours: CRMO has none.
        """
        models = {"keypoints.descriptor": grid(*KINDS), "classifier.name": grid("svm", "gaussian_nb")}
        kernel = {
            "classifier.C": only(grid(0.1, 1.0, 10.0, 100.0), classifier__name="svm"),
            "classifier.gamma": only(grid(0.0, 10.0, 100.0), classifier__name="svm"),
        }
        crmo, more = {"vocabulary": grid(50, 500)}, {"vocabulary": grid(50, 100, 200, 500)}
        return {
            "crmo": {**models, **crmo},
            "vocabularies": {**models, **more},
            "vocabularies-kernel": {**models, **more, **kernel},
        }

    def _usable(self, cohort: Cohort, words: PairWords, run: Run) -> np.ndarray:
        """Return the rows of the pairs that can be learned from, and say which are left out."""
        lengths = words.lengths()
        reasons = list(refusals(cohort, words, lengths))
        if reasons:
            some = "; ".join(reasons[:_TOLD]) + (" …" if len(reasons) > _TOLD else "")
            run.report(Progress(f"{words.split.name}: {len(reasons)} of {words.pairs} pairs left out: {some}"))
        return np.flatnonzero(usable(lengths))


def check_left(labels: np.ndarray, task: Task, where: str) -> None:
    """Raise UserError where the pairs with key points, whose labels (n,) are given, are not of two classes."""
    present = [name for index, name in enumerate(task.classes) if (labels == index).any()]
    if len(present) < 2:
        left = f"all are {present[0]}" if present else "none is left"
        raise UserError(
            f"{where}: of its pairs with key points in both images {left} (task {task.name}), and two classes are "
            "needed: choose another keypoints.descriptor, or bring more pairs"
        )
