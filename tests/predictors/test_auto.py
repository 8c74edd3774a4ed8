import numpy as np
import pytest

from hwnas.predictors.auto import CANDIDATES, FEWEST, Auto, loss


def fitted(features: np.ndarray, targets: np.ndarray, seed: int = 0) -> Auto:
    predictor = Auto(seed)
    predictor.fit(features, targets)
    return predictor


def test_the_choice_follows_the_data_and_changes_as_they_grow() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 8))
    linear = x @ rng.normal(size=8) + rng.normal(scale=2.0, size=200)
    assert fitted(x[: FEWEST - 1], linear[: FEWEST - 1]).loss == {}
    predictor = fitted(x, linear)
    assert predictor.loss.keys() == {kind.name for kind in CANDIDATES}
    assert predictor.chosen == min(predictor.loss, key=predictor.loss.__getitem__)
    rough = np.sin(6 * x[:, 0]) * np.exp(x[:, 1])
    chosen = {fitted(data, targets).chosen for data, targets in [(x, linear), (x[:, :2], rough)]}
    assert len(chosen) == 2
    predictor.fit(x[: FEWEST - 1], linear[: FEWEST - 1])
    assert (predictor.chosen, predictor.loss) == (CANDIDATES[0].name, {})


def test_it_says_what_the_chosen_one_says() -> None:
    x = np.random.default_rng(1).normal(size=(60, 4))
    y = x[:, 0] - 2 * x[:, 1]
    predictor = fitted(x, y)
    alone = next(kind for kind in CANDIDATES if kind.name == predictor.chosen)(0)
    alone.fit(x, y)
    for a, b in zip(predictor.predict(x), alone.predict(x), strict=True):
        assert a == pytest.approx(b)


def test_the_loss_counts_error_and_rank() -> None:
    y = np.arange(10.0)
    assert loss(y, y) == pytest.approx(0)
    assert loss(y + y.std(), y) == pytest.approx(1)  # ranks are right, values are not
    assert loss(np.full(10, y.mean()), y) == pytest.approx(2)
    assert loss(-y, y) > 2
