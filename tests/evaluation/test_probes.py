"""Probes against scikit-learn, and labels whose features are known."""

import numpy as np
import pytest
from scipy.sparse import csr_array, random_array
from sklearn.linear_model import LogisticRegression

from ard.evaluation.probes import (
    ALONE,
    choose_features,
    f1_scores,
    fit_probes,
    is_general,
    of_labels,
    predicted_shares,
    strata,
)


def scores_and_labels(seed, clips=200, features=30, labels=70):
    rng = np.random.default_rng(seed)
    x = csr_array(random_array((clips, features), density=0.3, rng=rng))
    return x, x @ rng.standard_normal((features, labels)) + rng.standard_normal((clips, labels)) > rng.uniform(0, 2)


@pytest.mark.parametrize("c", [0.1, 1.0, 30.0])
def test_probes_are_scikit_learns(c):
    x, truth = scores_and_labels(0)
    of_all = fit_probes(x, truth, c=c)
    features = np.random.default_rng(1).integers(30, size=(70, 3))
    own = fit_probes(of_labels(x, features), truth, c=c)
    for label in range(0, 70, 9):
        for probe, columns in ((of_all, range(30)), (own, features[label])):
            reference = LogisticRegression(C=c, tol=1e-8, max_iter=5000).fit(x.toarray()[:, columns], truth[:, label])
            np.testing.assert_allclose(probe.weights[:, label], reference.coef_[0], atol=2e-3, rtol=2e-3)
            assert probe.biases[label] == pytest.approx(reference.intercept_[0], abs=3e-3)
    np.testing.assert_allclose(
        predicted_shares(x, of_all)[:, 69],
        LogisticRegression(C=c, tol=1e-8, max_iter=5000)
        .fit(x.toarray(), truth[:, 69])
        .predict_proba(x.toarray())[:, 1],
        atol=1e-3,
    )


def test_what_can_be_separated_is_fitted_too():
    x = csr_array(np.repeat([[0.0, 1], [3, 0]], 30, axis=0))
    truth = np.repeat([[False, True], [True, False]], 30, axis=0)
    probes = fit_probes(x, truth)
    assert ((predicted_shares(x, probes) >= 0.5) == truth).all()
    assert np.isfinite(probes.weights).all()


def test_the_first_feature_correlates_most_and_the_next_adds_what_it_lacks():
    rng = np.random.default_rng(0)
    sad, angry, other = (rng.random(400) < share for share in (0.2, 0.15, 0.5))
    noise = 0.01 * rng.random((400, 3))
    x = np.column_stack([sad, sad, angry, other, np.zeros(400)]).astype(float)
    x[:, :3] += noise
    man = sad | angry
    chosen = choose_features(csr_array(x), np.column_stack([man, ~man]), (1, 2))
    assert chosen[0, 0] in (0, 1)
    assert chosen[0, 1] == 2  # and not the second that says sad
    correlations = [np.corrcoef(x[:, j], ~man)[0, 1] for j in range(4)]
    assert chosen[1, 0] == np.argmax(correlations)  # of those that are active where the label is
    every = choose_features(csr_array(x), man[:, None], (1, 2, 64))
    assert sorted(every[0]) == [0, 1, 2, 3, 4]


def test_f1_is_by_label():
    said = np.array([[True, False, False], [True, True, False], [False, False, False]])
    truth = np.array([[True, False, False], [False, True, False], [True, True, False]])
    found = f1_scores(said, truth)
    np.testing.assert_allclose(found[:2], [0.5, 2 / 3])
    assert np.isnan(found[2])


def test_clips_are_split_by_the_other_labels_and_small_parts_left_out():
    truth = np.array([[1, 1, 0], [1, 1, 0], [1, 0, 1], [1, 0, 0], [1, 0, 0], [0, 1, 0]], dtype=bool)
    parts = strata(truth, ["man", "sad", "angry"], 0, np.array([1, 1, 0, 1, 0, 1], dtype=bool), 2)
    assert [(part.name, part.clips.tolist(), part.recall) for part in parts] == [
        ("sad", [0, 1], 1.0),
        (ALONE, [3, 4], 0.5),
    ]
    assert (is_general(parts, 0.5), is_general(parts, 0.6), is_general(parts[:1], 0.0)) == (True, False, None)
