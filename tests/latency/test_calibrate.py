from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwnas.errors import TableError
from hwnas.latency.calibrate import correction_gain, fit, judge, linear, repeatability_cv, spread_over


@given(st.floats(0.1, 10), st.floats(-0.5, 5), st.integers(10, 30))
def test_slope_and_intercept_are_recovered(slope, intercept, n):
    x = np.linspace(6, 20, n)
    found = fit(x, slope * x + intercept)
    assert found == pytest.approx((slope, intercept), rel=1e-6, abs=1e-6)


def test_few_networks_give_a_slope_only():
    x = np.arange(1.0, 10.0)
    assert fit(x, 3 * x) == pytest.approx((3, 0))
    slope, intercept = fit(x, 3 * x + 1)
    assert intercept == 0
    assert slope > 3


def test_error_is_relative():
    """A network of 100 times the latency, 10 % off, weighs no more than a small one."""
    x = np.array([1.0, 100.0])
    slope, _ = fit(x, np.array([1.0, 110.0]))
    assert slope == pytest.approx((1 + 1 / 1.1) / (1 + 1 / 1.21))


def test_latencies_that_do_not_rise_are_refused():
    x = np.linspace(1, 2, 12)
    with pytest.raises(TableError, match="do not rise"):
        fit(x, 5 - x)


def test_judge_in_percent():
    found = judge([1.0, 2.2, 2.7, 4.0], [1.0, 2.0, 3.0, 5.0])
    assert found["networks"] == 4
    assert found["mape"] == pytest.approx(100 * (0 + 0.1 + 0.1 + 0.2) / 4, abs=1e-3)
    assert found["kendall_tau"] == 1.0
    assert judge([1.0, 1.05], [1.0, 2.0])["within_10pct"] == 50.0
    assert judge([2.0, 1.0], [1.0, 2.0])["kendall_tau"] == -1.0


def test_repeatability_is_the_deviation_of_one_measurement():
    generator = np.random.default_rng(0)
    halves = 7.0 * generator.normal(1, 0.03, (20000, 2))
    assert repeatability_cv(halves) == pytest.approx(3.0, rel=0.03)
    assert repeatability_cv([[2.0, 2.0]]) == 0


def test_networks_cover_the_range():
    values = np.random.default_rng(0).random(100)
    chosen = values[spread_over(values, 7)]
    assert (chosen[0], chosen[-1]) == (values.min(), values.max())
    assert (np.diff(chosen) > 0).all()


def test_linear():
    np.testing.assert_allclose(linear([1, 2], 3, 0.5), [3.5, 6.5])


def test_alike_operators_are_corrected_alike():
    """Operators 0 and 1 are equal, 2 is near to them, 3 is far; networks that hold the first are 10 % off."""
    features = np.array([[3.0, 4.0], [3.0, 4.0], [4.0, 4.0], [30.0, 40.0]])
    shares = np.array([[1.0, 0.0, 0.0, 0.0]] * 20)
    first, same, near, far = correction_gain(shares, features) @ np.full(20, 0.1)
    assert first == same == pytest.approx(0.1, rel=0.02)
    assert 0 < near < first
    assert far == pytest.approx(0, abs=1e-6)


def test_corrections_shrink_where_networks_are_few():
    features, shares = np.zeros((1, 2)), np.ones((1, 1))
    assert 0.8 < (correction_gain(shares, features) @ [1.0]).item() < 1
    assert correction_gain(shares, features) @ [0.0] == 0


def test_errors_of_networks_find_the_operators_that_are_off():
    generator = np.random.default_rng(0)
    features = generator.uniform(0, 6, (40, 3))
    off = 0.02 * (features[:, 0] - 3)  # large operators cost more than their entries say
    shares = generator.dirichlet(np.ones(40), 100)
    found = correction_gain(shares, features) @ (shares @ off)
    assert np.corrcoef(found, off)[0, 1] > 0.9
    unseen = generator.dirichlet(np.ones(40), 100)
    assert np.abs(unseen @ (found - off)).mean() < 0.3 * np.abs(unseen @ off).mean()
