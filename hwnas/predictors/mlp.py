"""Small neural networks, over scikit-learn; no torch."""

from __future__ import annotations

import warnings
from typing import Any

from hwnas.predictors.base import Array
from hwnas.predictors.committee import Committee


class MLP(Committee):
    """Networks of one hidden layer."""

    name = "mlp"

    def _learn(self, x: Array, y: Array) -> None:
        from sklearn.exceptions import ConvergenceWarning

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # 100 steps do, beyond them little changes
            super()._learn(x, y)

    def _member(self, seed: int) -> Any:
        from sklearn.neural_network import MLPRegressor

        return MLPRegressor(
            hidden_layer_sizes=(32,),
            activation="tanh",
            solver="lbfgs",
            alpha=2.0,
            max_iter=100,
            random_state=seed,
        )
