"""What every predictor promises. A newcomer joins by its line in PREDICTORS."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kendalltau

from hwnas.errors import SearchError
from hwnas.predictors import PREDICTORS, get_predictor, load_predictor
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
    with pytest.raises(SearchError, match=r"beyond ±1e\+100: use a larger unit"):
        predictor.fit(features, targets * 1e150)  # their squares would overflow
    predictor.fit(features, targets)
    with pytest.raises(SearchError, match="fitted on"):
        predictor.predict(features[:, 1:])
    with pytest.raises(SearchError, match="rows of equal length"):
        predictor.fit([[1.0, 2.0], [3.0]], targets[:2])  # type: ignore[arg-type]
    with pytest.raises(SearchError, match="d >= 1"):
        predictor.fit(features[:, :0], targets)
    with pytest.raises(SearchError, match=r"call fit\(features, targets\) first"):
        get_predictor(name).predict(features)


@pytest.mark.parametrize("name", PREDICTORS)
def test_how_rows_lie_in_memory_does_not_matter(name: str) -> None:
    features, targets = data(60)
    one, other = get_predictor(name), get_predictor(name)
    one.fit(features, targets)
    other.fit(np.asfortranarray(features), targets.tolist())  # type: ignore[arg-type]
    for a, b in zip(one.predict(features), other.predict(np.asfortranarray(features)), strict=True):
        assert (a == b).all()


@pytest.mark.parametrize("name", PREDICTORS)
def test_saved_and_loaded_it_says_the_same_to_the_last_bit(name: str, tmp_path: Path) -> None:
    features, targets = data(120)
    predictor = get_predictor(name, 2)
    assert predictor.name == name
    predictor.fit(features[:60], targets[:60])
    predictor.save(tmp_path / "predictor.json")
    mean, std = predictor.predict(features)
    loaded = load_predictor(tmp_path / "predictor.json")
    assert (type(loaded), loaded.seed) == (type(predictor), 2)
    for a, b in zip(loaded.predict(features), (mean, std), strict=True):
        assert (a == b).all()
    np.save(tmp_path / "features.npy", features)
    code = (
        "import sys, numpy; from hwnas.predictors import load_predictor; folder = sys.argv[1];"
        "said = load_predictor(f'{folder}/predictor.json').predict(numpy.load(f'{folder}/features.npy'));"
        "numpy.save(f'{folder}/said.npy', said); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert (np.load(tmp_path / "said.npy") == np.stack([mean, std])).all()


@pytest.mark.parametrize("name", PREDICTORS)
def test_nothing_to_predict_is_no_error(name: str) -> None:
    features, targets = data(20)
    predictor = get_predictor(name)
    predictor.fit(features, targets)
    assert [len(values) for values in predictor.predict(features[:0])] == [0, 0]


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(
        SearchError, match=r"'forest'.*ridge, quadratic, svr, gp, xgboost, mlp, ensemble, auto"
    ):
        get_predictor("forest")
