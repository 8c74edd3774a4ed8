import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import approx_fprime

from hwnas.predictors.gp import LENGTH, NOISE, SHARE, VARIANCE, GaussianProcess, loss


def test_the_deviation_grows_away_from_what_was_seen() -> None:
    x = np.linspace(0, 1, 20)[:, None]
    predictor = GaussianProcess()
    predictor.fit(x, np.sin(6 * x[:, 0]))
    mean, std = predictor.predict(np.array([[0.5], [3.0]]))
    assert mean[0] == pytest.approx(np.sin(3.0), abs=0.05)
    assert std[1] > 5 * std[0]


def test_indicators_and_quantities_are_both_learnt_from() -> None:
    rng = np.random.default_rng(0)
    indicator, quantity = rng.integers(0, 2, (200, 1)).astype(float), rng.random((200, 1))
    targets = 3 * indicator[:, 0] + np.sin(5 * quantity[:, 0])
    features = np.concatenate([indicator, quantity], axis=1)
    predictor = GaussianProcess()
    predictor.fit(features[:100], targets[:100])
    assert np.abs(predictor.predict(features[100:])[0] - targets[100:]).mean() < 0.1 * targets.std()


def test_more_rows_than_hyperparameters_are_learnt_from() -> None:
    x = np.random.default_rng(0).random((400, 3))
    targets = x.sum(axis=1)
    predictor = GaussianProcess()
    predictor.fit(x, targets)
    assert np.abs(predictor.predict(x)[0] - targets).max() < 0.05


@given(st.integers(2, 12), st.integers(1, 4), st.integers(0, 1000))
def test_the_gradient_is_that_of_the_loss(n: int, d: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    prior = np.array([VARIANCE, LENGTH, NOISE] + [SHARE] * d)
    data = (rng.normal(size=(n, d)), rng.normal(size=n), rng.uniform(0.7, 5, n), prior)
    theta = rng.normal(prior[:, 0], 0.5 * prior[:, 1])
    expected = approx_fprime(theta, lambda values: loss(values, *data)[0], 1e-6)
    assert loss(theta, *data)[1] == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_columns_that_say_nothing_do_no_harm() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(160, 40))
    targets = np.sin(2 * x[:, 0]) + x[:, 1]
    predictor = GaussianProcess()
    predictor.fit(x[:80], targets[:80])
    error = np.abs(predictor.predict(x[80:])[0] - targets[80:]).mean()
    assert error < 0.15 * targets.std()


def test_outliers_do_not_mislead() -> None:
    rng = np.random.default_rng(0)
    x = rng.random((200, 4))
    truth = x @ [1.0, 2.0, 3.0, 4.0]
    targets = np.where(rng.random(200) < 0.1, 5 * truth, truth)
    predictor = GaussianProcess()
    predictor.fit(x[:100], targets[:100])
    assert np.abs(predictor.predict(x[100:])[0] - truth[100:]).mean() < 0.1 * truth.std()
