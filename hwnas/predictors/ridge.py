"""Ridge regression, its strength chosen by leave-one-out error in closed form."""

from __future__ import annotations

import numpy as np

from hwnas.predictors.base import Array, Scaler

STRENGTHS = np.logspace(-2, 4, 25)


class Ridge:
    """Linear with a quadratic penalty; the std is the root mean square of leave-one-out residuals."""

    def __init__(self, seed: int = 0) -> None:
        """Nothing is drawn; the seed is that of every predictor."""

    def fit(self, features: Array, targets: Array) -> None:
        self._scaler = Scaler(features, targets)
        x, y = self._scaler.features(features), self._scaler.targets(targets)
        u, s, vt = np.linalg.svd(x, full_matrices=False)
        projected = u.T @ y
        shrink = s**2 / (s**2 + STRENGTHS[:, None])  # (strengths, rank)
        fitted = (shrink * projected) @ u.T
        leverage = shrink @ (u.T**2) + 1.0 / len(y)  # the mean is fitted too
        residuals = (y - fitted) / np.maximum(1 - leverage, 1e-6)
        errors = np.mean(residuals**2, axis=1)
        best = int(np.argmin(errors))
        self._weights = vt.T @ (s / (s**2 + STRENGTHS[best]) * projected)
        self._std = float(np.sqrt(max(errors[best], 1e-18)))

    def predict(self, features: Array) -> tuple[Array, Array]:
        mean = self._scaler.features(features) @ self._weights
        return self._scaler.restore(mean, np.full(len(mean), self._std))
