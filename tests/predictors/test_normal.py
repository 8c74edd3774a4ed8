import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import skew

from hwnas.predictors import get_predictor
from hwnas.predictors.normal import YeoJohnson


@given(st.lists(st.integers(-3000, 3000).map(lambda n: n / 1000), min_size=2, max_size=30), st.floats(0.1, 5))
def test_the_transform_is_undone_within_and_increases_beyond(values: list[float], stretch: float) -> None:
    seen = np.exp(np.array(values)) if stretch > 2 else np.array(values)
    warp = YeoJohnson(seen)
    assert warp.inverse(warp.forward(seen)) == pytest.approx(seen, abs=1e-6)
    moved = warp.forward(seen)
    grid = np.linspace(moved.min() - stretch, moved.max() + stretch, 50)
    back = warp.inverse(grid)
    assert np.isfinite(back).all()
    assert (np.diff(back) >= 0).all()


def test_skewed_values_become_symmetric() -> None:
    seen = np.random.default_rng(0).lognormal(size=500)
    moved = YeoJohnson(seen).forward(seen)
    assert abs(skew(moved)) < 0.3 < skew(seen)
    assert (moved.mean(), moved.std()) == pytest.approx((0, 1))


@pytest.mark.parametrize("name", ["quadratic", "svr", "gp", "mlp", "ensemble", "auto"])
def test_predictors_learn_values_that_saturate(name: str) -> None:
    """Better than ridge, which takes targets as they are."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 6))
    y = 90 - np.exp(-x @ [0.5, 0.4, 0.3, 0.2, 0.1, 0.0])
    errors = {}
    for one in (name, "ridge"):
        predictor = get_predictor(one)
        predictor.fit(x[:100], y[:100])
        errors[one] = np.abs(predictor.predict(x[100:])[0] - y[100:]).mean()
    assert errors[name] < errors["ridge"]
