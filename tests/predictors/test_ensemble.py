import numpy as np
import pytest

from hwnas.predictors.ensemble import MEMBERS, Ensemble


def test_weights_go_to_members_that_predict_well() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 6))
    predictor = Ensemble()
    predictor.fit(x, x[:, 0] * x[:, 1] + x[:, 2])
    assert predictor.weights.keys() == {kind.name for kind in MEMBERS}
    assert sum(predictor.weights.values()) == pytest.approx(1)
    assert min(predictor.weights.values()) >= 0
    assert predictor.weights["xgboost"] < 0.1  # steps, of what is smooth


def test_few_rows_give_equal_weights() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, 3))
    predictor = Ensemble()
    predictor.fit(x, x[:, 0])
    assert set(predictor.weights.values()) == {1 / len(MEMBERS)}


def test_the_deviation_holds_how_far_members_are_apart() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, 3))
    y = x[:, 0]
    predictor = Ensemble()
    predictor._learn(x, y)
    unseen = 5 * rng.normal(size=(20, 3))
    said = []
    for kind in MEMBERS:
        member = kind(0)
        member.fit(x, y)
        said.append(member.predict(unseen)[0])
    mean, std = predictor._predict(unseen)
    assert mean == pytest.approx(np.mean(said, axis=0), abs=0.01)
    assert (std >= np.std(said, axis=0) * 0.99).all()
