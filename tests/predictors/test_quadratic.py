import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwnas.predictors.quadratic import SHARES, STRENGTHS, Quadratic
from hwnas.predictors.ridge import Ridge


def written_out(x: np.ndarray, share: float) -> np.ndarray:
    """Features and all their products, so that plain ridge on them is the same model."""
    d = x.shape[1]
    products = (x[:, :, None] * x[:, None, :]).reshape(len(x), d * d)
    return np.concatenate([np.sqrt((1 - share) / d) * x, np.sqrt(share) / d * products], axis=1)


@given(st.integers(5, 25), st.integers(1, 4), st.integers(0, 1000))
def test_it_is_ridge_on_products(n: int, d: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, unseen = rng.normal(size=(n, d)), rng.normal(size=(4, d))
    y = rng.normal(size=n)
    y -= y.mean()
    predictor = Quadratic()
    predictor._learn(x, y)
    a, b = written_out(x, predictor._share), written_out(unseen, predictor._share)
    middle, strength = a.mean(axis=0), predictor._strength
    a, b = a - middle, b - middle
    inverse = np.linalg.inv(a.T @ a + strength * np.eye(a.shape[1]))
    expected = b @ inverse @ a.T @ y
    mean, std = predictor._predict(unseen)
    assert mean == pytest.approx(expected, rel=1e-5, abs=1e-7)
    spread = np.sqrt(predictor._noise * (1 + np.einsum("ij,jk,ik->i", b, inverse, b)))
    assert std == pytest.approx(spread, rel=1e-4, abs=1e-7)


def test_strength_and_share_have_the_least_leave_one_out_error() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(12, 3))
    y = x[:, 0] + 0.5 * x[:, 1] * x[:, 2] + 0.1 * rng.normal(size=12)
    targets = y - y.mean()
    predictor = Quadratic()
    predictor._learn(x, targets)
    errors = {}
    for share in SHARES:
        a = written_out(x, share)
        for strength in STRENGTHS:
            left_out = []
            for i in range(12):
                seen = np.arange(12) != i
                middle, level = a[seen].mean(axis=0), targets[seen].mean()
                part = a[seen] - middle
                inverse = np.linalg.inv(part.T @ part + strength * np.eye(a.shape[1]))
                left_out.append(level + (a[i] - middle) @ inverse @ part.T @ (targets[seen] - level))
            errors[share, strength] = np.mean((targets - left_out) ** 2)
    assert min(errors, key=errors.__getitem__) == (predictor._share, predictor._strength)


def test_it_learns_a_product_that_ridge_cannot() -> None:
    x = np.random.default_rng(0).normal(size=(300, 5))
    y = x[:, 0] * x[:, 1]
    quadratic, ridge = Quadratic(), Ridge()
    for predictor in (quadratic, ridge):
        predictor.fit(x[:150], y[:150])
    error = np.abs(quadratic.predict(x[150:])[0] - y[150:]).mean()
    assert error < 0.2 * np.abs(ridge.predict(x[150:])[0] - y[150:]).mean()


def test_the_deviation_covers_noise_and_grows_away_from_what_was_seen() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 3))
    y = x[:, 0] * x[:, 1] + rng.normal(scale=0.5, size=400)
    predictor = Quadratic()
    predictor.fit(x[:200], y[:200])
    mean, std = predictor.predict(x[200:])
    assert 0.9 < np.mean(np.abs(mean - y[200:]) < 2 * std) < 0.99
    assert predictor.predict(np.full((1, 3), 9.0))[1][0] > 3 * std.mean()
