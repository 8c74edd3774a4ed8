"""Support vector regression with an RBF kernel, over scikit-learn."""

from __future__ import annotations

import numpy as np

from hwnas.predictors.base import Array, Scaler, held_out_deviation

PENALTIES = (1.0, 10.0, 100.0)
FOLDS = 5


class SVR:
    """Penalty chosen by cross-validation; the std is the root mean square of its held-out residuals."""

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed

    def fit(self, features: Array, targets: Array) -> None:
        from sklearn.model_selection import KFold, cross_val_predict
        from sklearn.svm import SVR as Machine

        self._scaler = Scaler(features, targets)
        x, y = self._scaler.features(features), self._scaler.targets(targets)
        folds = KFold(min(FOLDS, len(y)), shuffle=True, random_state=self._seed)
        errors = {}
        for penalty in PENALTIES:
            machine = Machine(C=penalty, epsilon=0.01, gamma=0.3 / x.shape[1])
            errors[penalty] = held_out_deviation(y, cross_val_predict(machine, x, y, cv=folds))
        best = min(errors, key=errors.__getitem__)
        self._machine = Machine(C=best, epsilon=0.01, gamma=0.3 / x.shape[1]).fit(x, y)
        self._std = errors[best]

    def predict(self, features: Array) -> tuple[Array, Array]:
        mean = self._machine.predict(self._scaler.features(features))
        return self._scaler.restore(mean, np.full(len(mean), self._std))
