"""What bags say of rows whose patient they leave out, on small arrays and without a cluster."""

import numpy as np

from mskray.estimators.out_of_bag import decisions, left_out, spread_duals
from mskray.estimators.svm import FittedBag, PartModel, Polynomial, Standard, fit_svms, mean_of_bags


def bag(rows: list[int], duals: list[float], intercept: float = 0.0) -> FittedBag:
    return FittedBag(np.array(rows), np.array([duals]), np.array([intercept]))


def test_a_bag_with_another_image_of_the_patient_does_not_count() -> None:
    rows, patients = np.array([2, 5, 6, 9]), np.array(["a", "a", "b", "c"])
    found = left_out(patients, rows, [bag([2], [1.0]), bag([6, 9], [1.0, -1.0])])
    assert found.tolist() == [[False, True], [False, True], [True, False], [True, False]]


def test_each_bag_keeps_its_coefficients_on_the_vectors_of_all() -> None:
    rows = np.array([2, 5, 6, 9])
    bags = [bag([2, 6], [1.0, 0.0], 0.5), bag([6, 9], [-2.0, 3.0], -0.5)]
    used, mean, _ = mean_of_bags(rows, bags)
    duals, intercepts = spread_duals(rows, used, bags)
    assert used.tolist() == [0, 2, 3]
    assert duals[:, 0].tolist() == [[1.0, 0.0, 0.0], [0.0, -2.0, 3.0]]
    assert intercepts.tolist() == [[0.5], [-0.5]]
    np.testing.assert_allclose(duals.mean(axis=0), mean)


def test_a_row_is_judged_by_the_bags_that_leave_it_out_as_by_these_alone() -> None:
    """Three classes, bags of real SVMs: the mean over the bags outside, each evaluated alone."""
    random = np.random.default_rng(0)
    features, labels = random.normal(size=(60, 4)).astype(np.float32), np.arange(60) % 3
    kernel, standard = Polynomial(2, 0.25, 1.0), Standard(np.zeros(4, np.float32), np.ones(4, np.float32))
    bags = []
    for seed in range(4):
        drawn, counts = np.unique(np.random.default_rng(seed).choice(60, 60), return_counts=True)
        gram = kernel(features[drawn], features[drawn])
        bags.append(FittedBag(drawn, *fit_svms(gram, labels[drawn], counts, 3, 1.0, 1)))
    rows = np.arange(60)
    used, mean, intercepts = mean_of_bags(rows, bags)
    part = PartModel(standard, features[used], mean, intercepts, np.ones(3), np.zeros(3))
    outside = left_out(rows, rows, bags)
    found = decisions(part, kernel, *spread_duals(rows, used, bags), features, outside)
    alone = [kernel(features, features[each.rows]) @ each.duals.T + each.intercepts for each in bags]
    for row in range(60):
        judges = [each[row] for each, out in zip(alone, outside[row], strict=True) if out]
        expected = np.mean(judges, axis=0) if judges else np.full(3, np.nan)
        np.testing.assert_allclose(found[row], expected, rtol=1e-5, atol=1e-6)
    assert 0 < np.isnan(found).any(axis=1).sum() < 20, "some rows are in every bag"
