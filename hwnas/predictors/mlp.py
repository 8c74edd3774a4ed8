"""Small neural networks, over scikit-learn; no torch."""

from __future__ import annotations

import warnings

import numpy as np

from hwnas.predictors.base import Array, Predictor

MEMBERS = 5


class MLP(Predictor):
    """Mean of networks that start from different weights; the std is their spread."""

    name = "mlp"

    def _learn(self, x: Array, y: Array) -> None:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.neural_network import MLPRegressor

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # stopping early is meant
            self._members = [
                MLPRegressor(
                    hidden_layer_sizes=(32,),
                    solver="lbfgs",
                    alpha=1.0,
                    max_iter=100,
                    random_state=MEMBERS * self.seed + member,
                ).fit(x, y)
                for member in range(MEMBERS)
            ]

    def _predict(self, x: Array) -> tuple[Array, Array]:
        predicted = np.array([member.predict(x) for member in self._members])
        return predicted.mean(axis=0), predicted.std(axis=0)
