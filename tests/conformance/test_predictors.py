"""What every predictor promises. A newcomer joins by its line in PREDICTORS."""

import numpy as np
import pytest
from scipy.stats import kendalltau

from hwnas.errors import SearchError
from hwnas.predictors import PREDICTORS, get_predictor
from tests.searching.problems import accuracy, toy_space


def data(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    space = toy_space()
    archs = space.enumerate()[np.random.default_rng(seed).permutation(space.size)[:n]]
    return space.features(archs), accuracy(archs)


@pytest.mark.parametrize("name", PREDICTORS)
def test_it_ranks_architectures_that_it_has_not_seen(name: str) -> None:
    features, targets = data(180)
    predictor = get_predictor(name)
    predictor.fit(features[:100], targets[:100])
    mean, std = predictor.predict(features[100:])
    assert mean.shape == std.shape == (80,)
    assert np.isfinite(mean).all()
    assert np.isfinite(std).all()
    assert (std >= 0).all()
    assert kendalltau(mean, targets[100:])[0] > 0.8
    assert np.abs(mean - targets[100:]).mean() < 0.3 * targets.std()


@pytest.mark.parametrize("name", PREDICTORS)
def test_it_is_deterministic_and_forgets_the_fit_before(name: str) -> None:
    features, targets = data(60)
    one, other = get_predictor(name, 3), get_predictor(name, 3)
    one.fit(features[:30], -targets[:30])
    for predictor in (one, other):
        predictor.fit(features, targets)
    for a, b in zip(one.predict(features), other.predict(features), strict=True):
        assert (a == b).all()


@pytest.mark.parametrize("name", PREDICTORS)
@pytest.mark.parametrize(("scale", "shift"), [(1e9, 0.0), (-1e-6, 5.0)])
def test_units_do_not_matter(name: str, scale: float, shift: float) -> None:
    features, targets = data(60)
    plain, scaled = get_predictor(name), get_predictor(name)
    plain.fit(features, targets)
    scaled.fit(features * 1000.0, targets * scale + shift)
    mean, _ = plain.predict(features)
    other, _ = scaled.predict(features * 1000.0)
    assert kendalltau(mean * np.sign(scale), other)[0] > 0.9


@pytest.mark.parametrize("name", PREDICTORS)
def test_it_copes_with_two_rows_and_with_constant_values(name: str) -> None:
    features, targets = data(20)
    predictor = get_predictor(name)
    predictor.fit(features[:2], targets[:2])
    assert np.isfinite(predictor.predict(features)).all()
    predictor.fit(features, np.full(20, 3.0))
    mean, std = predictor.predict(features)
    assert mean == pytest.approx(np.full(20, 3.0), abs=1e-3)
    assert np.isfinite(std).all()
    predictor.fit(np.ones((5, 3)), np.arange(5.0))
    assert predictor.predict(np.ones((2, 3)))[0] == pytest.approx([2.0, 2.0], abs=0.5)


@pytest.mark.parametrize("name", PREDICTORS)
def test_it_refuses_what_it_cannot_learn_from(name: str) -> None:
    features, targets = data(10)
    predictor = get_predictor(name)
    for wrong in [(features, targets[:5]), (features[:1], targets[:1]), (features[0], targets)]:
        with pytest.raises(SearchError, match=r"features \(n, d\) and targets \(n,\)"):
            predictor.fit(*wrong)
    with pytest.raises(SearchError, match="finite"):
        predictor.fit(features, np.where(targets > targets.mean(), np.nan, targets))
    predictor.fit(features, targets)
    with pytest.raises(SearchError, match="fitted on"):
        predictor.predict(features[:, 1:])


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(SearchError, match=r"'forest'.*ridge, gp, svr, xgboost"):
        get_predictor("forest")
