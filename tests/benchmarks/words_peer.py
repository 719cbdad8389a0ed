"""A peer of `bench_words.py`: SIFT descriptors, k-means, an SVM and its probabilities by OpenCV and scikit-learn."""

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import KMeans
from sklearn.svm import SVC

from mskray.estimators.words import deal

MOST = 200
"""Key points of an image."""

Described = tuple[np.ndarray, np.ndarray]
"""SIFT descriptors of all images (n, 128) float32, and how many are each image's."""


def clustered(rows: np.ndarray, start: np.ndarray) -> Any:
    """Lloyd's k-means from a start, as ours goes on from it."""
    return KMeans(len(start), init=start, n_init=1, max_iter=300, tol=1e-4, algorithm="lloyd").fit(rows)


def judge(folder: str, found: Mapping[str, Described], vocabulary: Any, name: str) -> None:
    """Fit the SVM on the words of the training pairs, and leave what it says of the validation pairs."""
    words = len(vocabulary.cluster_centers_)
    train = np.load(f"{folder}/train.npz")
    counts = {split: _counted(vocabulary.predict(rows), lengths, words) for split, (rows, lengths) in found.items()}
    fold = deal(train["labels"], train["patients"], 3, ("worse", "improved"))
    folds = [(np.flatnonzero(fold != number), np.flatnonzero(fold == number)) for number in range(3)]
    svm = SVC(C=1.0, gamma=1 / (counts["train"].shape[1] * counts["train"].var()))
    model = CalibratedClassifierCV(svm, cv=folds, ensemble=False).fit(counts["train"], train["labels"])
    np.save(f"{folder}/said-{name}.npy", model.predict_proba(counts["validation"]).argmax(axis=1))


def described(pairs: np.ndarray, cores: int) -> Described:
    """Find the strongest key points of all images."""
    cv2.setNumThreads(cores)
    detector, found = cv2.SIFT.create(nfeatures=MOST, contrastThreshold=0.005), []
    for image in pairs.reshape(-1, *pairs.shape[2:]):
        points, descriptors = detector.detectAndCompute(image, None)
        # Of one place they differ in scale or angle: in one image of 25 the bound cuts equally strong ones apart.
        keys = [(-point.response, *point.pt[::-1]) for point in points]
        whole = descriptors.astype(np.uint8)
        strongest = sorted(range(len(points)), key=lambda place: (keys[place], whole[place].tobytes()))[:MOST]
        found.append(descriptors[strongest])
    return np.concatenate(found), np.array([len(each) for each in found])


def _counted(labels: np.ndarray, lengths: np.ndarray, words: int) -> np.ndarray:
    """Shares of each word in both images of each pair, side by side: (pairs, 2 · words)."""
    image = np.repeat(np.arange(len(lengths)), lengths)
    counts = np.bincount(image * words + labels, minlength=len(lengths) * words).reshape(len(lengths), words)
    return (counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)).astype(np.float32).reshape(-1, 2 * words)
