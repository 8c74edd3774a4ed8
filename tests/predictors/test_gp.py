import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwnas.predictors.gp import GaussianProcess, YeoJohnson


@given(st.lists(st.floats(-3, 3), min_size=2, max_size=30), st.floats(0.1, 5))
def test_the_transform_is_undone_within_and_increases_beyond(values: list[float], stretch: float) -> None:
    seen = np.exp(np.array(values)) if stretch > 2 else np.array(values)
    warp = YeoJohnson(seen)
    assert warp.inverse(warp.forward(seen)) == pytest.approx(seen, abs=1e-6)
    moved = warp.forward(seen)
    grid = np.linspace(moved.min() - stretch, moved.max() + stretch, 50)
    back = warp.inverse(grid)
    assert np.isfinite(back).all()
    assert (np.diff(back) >= 0).all()


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
