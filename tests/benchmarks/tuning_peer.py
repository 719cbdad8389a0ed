"""A peer of `bench_tune.py`: trials as a person writes them for Optuna with joblib, each a function of its values.

joblib's processes (two, which stay) take the trials; `optimize` asks Optuna for values and tells it what came out. A
trial reads the decoded pixels from memory-mapped arrays and does all of its work itself: nothing is kept for the next.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

BATCH = 256
SURVEYED = 50_000
"""Descriptors that words are learned from."""
SPLITS = ("train", "validation")


def optimize(
    objective: Callable[..., float], space: Mapping[str, Sequence[Any]], slots: int, *given: Any
) -> list[float]:
    """Every combination of values, by as many processes as there are slots; what each came to."""
    import optuna
    from joblib import Parallel, delayed

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize")
    listed = [dict(zip(space, values, strict=True)) for values in product(*space.values())]
    for values in listed:
        study.enqueue_trial(values)
    trials = [study.ask() for _ in listed]
    for trial in trials:
        for name, choices in space.items():
            trial.suggest_categorical(name, list(choices))

    def numbered(number: int, params: dict[str, Any]) -> tuple[int, float]:
        return number, objective(params, *given)

    work = (delayed(numbered)(place, trial.params) for place, trial in enumerate(trials))
    for place, value in Parallel(slots, return_as="generator_unordered")(work):
        study.tell(trials[place], value)
    return [float(trial.value) for trial in study.trials]


def waits(params: dict[str, Any], seconds: float) -> float:
    time.sleep(seconds)
    return float(params["number"])


def classifier(params: dict[str, Any], folder: str, job: dict[str, Any]) -> float:
    """Train the family's network with its loss, augmentation, optimizer and schedule; the best epoch's AUROC.

    After each epoch the validation split is predicted, as ours does, and the best weights are kept.
    """
    import torch
    from bench_training import _optimizer
    from sklearn.metrics import roc_auc_score

    from mskray.config import merge
    from mskray.families.classifier import ClassifierConfig, ClassifierRecipe
    from mskray.training.recipe import to_batch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = ClassifierConfig.model_validate(merge(job, params))
    recipe: Any = ClassifierRecipe(config, 2)
    train, held = (
        {name: np.load(f"{folder}/{split}-{name}.npy", mmap_mode="r") for name in ("image", "label")}
        for split in SPLITS
    )
    network: Any = recipe.build().to(memory_format=torch.channels_last)
    size, epochs = config.data.batch_size, config.loop.epochs
    steps = len(train["label"]) // size
    optimizer, schedule = _optimizer(recipe, network, epochs * steps)
    best, weights = -1.0, {}
    for epoch in range(epochs):
        recipe.set_training(network, epoch)
        order = torch.randperm(len(train["label"])).numpy()
        for step in range(steps):
            rows = np.sort(order[step * size : (step + 1) * size])
            batch = to_batch({name: each[rows] for name, each in train.items()}, torch.device("cpu"))
            recipe.loss(network, recipe.augment(batch), None).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            schedule.after_update()
        network.eval()
        with torch.inference_mode():
            said = [
                recipe.answer(network, to_batch({"image": held["image"][start : start + BATCH]}, torch.device("cpu")))
                for start in range(0, len(held["label"]), BATCH)
            ]
        reached = roc_auc_score(held["label"], torch.cat([each.probabilities for each in said])[:, 1].numpy())
        if reached > best:
            best, weights = float(reached), {name: value.clone() for name, value in network.state_dict().items()}
    assert weights
    return best


def words(params: dict[str, Any], folder: str) -> float:
    """Key points of all images, scikit-learn's k-means, histograms, a classifier; AUROC of the validation pairs."""
    from sklearn.cluster import KMeans
    from sklearn.metrics import roc_auc_score

    from mskray.estimators.pair_words import KeyPointSection
    from mskray.estimators.words import ClassifierSection, class_probabilities, fit_classifier, pair_rows

    kind, most = params["keypoints.descriptor"], KeyPointSection().most
    section = ClassifierSection(name=params["classifier.name"])
    found = {split: _described(np.load(f"{folder}/{split}-image.npy", mmap_mode="r"), kind, most) for split in SPLITS}
    rows = found["train"][0]
    drawn = np.random.default_rng(0).permutation(len(rows))[:SURVEYED]
    model = KMeans(params["vocabulary"], n_init=1, max_iter=300, tol=1e-4, random_state=0).fit(rows[drawn])
    given = {}
    for split, (descriptors, image, images) in found.items():
        places = image * model.n_clusters + model.predict(descriptors)
        counts = np.bincount(places, minlength=images * model.n_clusters).reshape(-1, 2, model.n_clusters)
        given[split] = pair_rows(counts, section)
    labels, patients = (np.load(f"{folder}/train-{name}.npy") for name in ("label", "patient"))
    judge = fit_classifier(given["train"], labels, patients, ("no", "yes"), section)
    said = class_probabilities(judge, given["validation"])
    return float(roc_auc_score(np.load(f"{folder}/validation-label.npy"), said[:, 1]))


def _described(pairs: np.ndarray, kind: Any, most: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Descriptors of all images (total, width) float32, whose each is, and how many images there are."""
    from mskray.imaging.keypoints import describe, unpack

    found = [unpack(describe(image, kind, most).descriptors, kind) for pair in pairs for image in pair]
    return np.concatenate(found), np.repeat(np.arange(len(found)), [len(each) for each in found]), len(found)
